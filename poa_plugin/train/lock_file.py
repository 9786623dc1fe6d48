"""The file of a lock: how one of several processes acquires it, and who holds it.

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


def acquire(path: Path, this_process: Holder) -> None:
    """Acquire a lock, or replace it if it is stale."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not try_create(path, this_process):
        holder, silent = read_holder(path), _silent_seconds(path, this_process)
        if holder is None or silent is None or read_holder(path) != holder:
            continue  # released or replaced since: the silence is not this holder's
        if holder.has_ended(this_process, silent):
            _replace(path, holder, this_process)
        elif (path.name != NAME or holder is UNKNOWN) and time.monotonic() < deadline:
            time.sleep(0.02)  # it is being written, or it is the lock on replacing a stale one
        else:
            raise UserError(_in_use(path, holder, this_process, silent))


def _replace(path: Path, stale: Holder, this_process: Holder) -> None:
    """Replace a holder that has ended by this process, unless another one has done so."""
    takeover = path.with_name(f"{path.name}.{stale.token}")
    acquire(takeover, this_process)
    try:
        holder = read_holder(path)
        if holder is not None and holder.token == stale.token:
            candidate = _write_candidate(path, this_process)
            candidate.replace(path)
    finally:
        takeover.unlink(missing_ok=True)


def try_create(path: Path, this_process: Holder) -> bool:
    """Create a lock if there is none; return whether this process holds it now."""
    candidate = _write_candidate(path, this_process)
    try:
        os.link(candidate, path)
        return True
    except (FileExistsError, FileNotFoundError):
        # It may still be ours: replaced just now, or linked while the answer of a server was lost.
        holder = read_holder(path)
        return holder is not None and holder.token == this_process.token
    except OSError:  # a file system without hard links
        return _create(path, this_process)
    finally:
        candidate.unlink(missing_ok=True)


def _create(path: Path, this_process: Holder) -> bool:
    """Create a lock under its name; a process that reads it before it is written sees `UNKNOWN`."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        holder = read_holder(path)
        return holder is not None and holder.token == this_process.token
    try:
        with file:
            file.write(_text(this_process))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _write_candidate(path: Path, this_process: Holder) -> Path:
    candidate = path.with_name(f".{path.name}.{this_process.token}.new")
    try:
        candidate.write_text(_text(this_process), encoding="utf-8")
    except OSError:
        candidate.unlink(missing_ok=True)
        raise
    return candidate


def _text(holder: Holder) -> str:
    return json.dumps(asdict(holder), indent=2)


def read_holder(path: Path) -> Holder | None:
    """Return who holds a lock, None if nobody does, `UNKNOWN` if the file is unusable."""
    try:
        holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (PermissionError, ValueError, TypeError):
        return UNKNOWN
    return holder if isinstance(holder.pid, int) else UNKNOWN


def _silent_seconds(path: Path, this_process: Holder) -> float | None:
    """Return the seconds since a lock was touched, by the file system's clock; None if it is gone."""
    probe = path.with_name(f".{path.name}.{this_process.token}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _in_use(path: Path, holder: Holder, this_process: Holder, silent_seconds: float) -> str:
    if holder.host == this_process.host:
        advice = f"Wait until it has ended, or stop it (kill {holder.pid}: it saves first)"
    else:
        minutes = STALE_SECONDS / 60
        advice = (
            f"Wait until it has ended, or stop it there; if it was killed, this folder is free "
            f"{minutes:.0f} minutes after its last sign of life, which was {silent_seconds:.0f} seconds ago"
        )
    return (
        f"'{path.parent}' is in use by {holder}. {advice}; or choose another output_dir. If that process "
        f"does not train here, as where the folder is a copy, remove '{path}'."
    )
