"""The file of a lock: how one process of several takes it, and who holds it.

Whoever wants the lock writes a candidate file and links it to the lock's name, which only one process can.
A lock whose holder has ended is stale (`Holder.has_ended`) and is replaced; of several processes that see
the same stale lock one may do so, the one that holds a second lock, named after the token of the stale one.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.train.lock_holder import STALE_SECONDS, UNKNOWN, Holder

NAME = "train.lock"
PATIENCE_SECONDS = 5.0
"""How long to wait for another process that is replacing the same stale lock."""


def take(path: Path, here: Holder) -> None:
    """Take a lock, or replace it if it is stale."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not put(path, here):
        there, silent = read_holder(path), _silent_seconds(path, here)
        if there is None or silent is None or read_holder(path) != there:
            continue  # released or replaced since: the silence is not this holder's
        if there.has_ended(here, silent):
            _replace(path, there, here)
        elif (path.name != NAME or there is UNKNOWN) and time.monotonic() < deadline:
            time.sleep(0.02)  # it is being written, or it is the right to replace a stale lock
        else:
            raise UserError(_in_use(path, there, here, silent))


def _replace(path: Path, stale: Holder, here: Holder) -> None:
    """Put this process in the place of one that has ended, unless another one has done so."""
    right = path.with_name(f"{path.name}.{stale.token}")
    take(right, here)
    try:
        there = read_holder(path)
        if there is not None and there.token == stale.token:
            candidate = _write_candidate(path, here)
            candidate.replace(path)
    finally:
        right.unlink(missing_ok=True)


def put(path: Path, here: Holder) -> bool:
    """Make a lock where there is none; return whether this process holds it now."""
    candidate = _write_candidate(path, here)
    try:
        os.link(candidate, path)
        return True
    except (FileExistsError, FileNotFoundError):
        # It may still be ours: replaced just now, or linked while the answer of a server was lost.
        there = read_holder(path)
        return there is not None and there.token == here.token
    except OSError:  # a file system without hard links
        return _create(path, here)
    finally:
        candidate.unlink(missing_ok=True)


def _create(path: Path, here: Holder) -> bool:
    """Make a lock by its name; whoever reads it before it is written sees no holder that can be known."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        there = read_holder(path)
        return there is not None and there.token == here.token
    try:
        with file:
            file.write(_text(here))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _write_candidate(path: Path, here: Holder) -> Path:
    candidate = path.with_name(f".{path.name}.{here.token}.new")
    try:
        candidate.write_text(_text(here), encoding="utf-8")
    except OSError:
        candidate.unlink(missing_ok=True)
        raise
    return candidate


def _text(holder: Holder) -> str:
    return json.dumps(asdict(holder), indent=2)


def read_holder(path: Path) -> Holder | None:
    """Return who holds a lock, None if nobody does, `UNKNOWN` if the file says nothing of use."""
    try:
        holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (PermissionError, ValueError, TypeError):
        return UNKNOWN
    return holder if isinstance(holder.pid, int) else UNKNOWN


def _silent_seconds(path: Path, here: Holder) -> float | None:
    """Return the seconds since a lock was touched, by the file system's clock; None if it is gone."""
    probe = path.with_name(f".{path.name}.{here.token}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _in_use(path: Path, there: Holder, here: Holder, silent_seconds: float) -> str:
    if there.host == here.host:
        then = f"Wait until it has ended, or stop it (kill {there.pid}: it saves first)"
    else:
        minutes = STALE_SECONDS / 60
        then = (
            f"Wait until it has ended, or stop it there; if it was killed, this folder is free "
            f"{minutes:.0f} minutes after its last sign of life, which was {silent_seconds:.0f} seconds ago"
        )
    return (
        f"'{path.parent}' is in use by {there}. {then}; or choose another output_dir. If that process "
        f"does not train here, as where the folder is a copy, remove '{path}'."
    )
