"""A lock on a run's folder: one training at a time, and none is kept out by one that has ended.

The lock is the file `train.lock`, which names its holder. Whoever wants it writes a candidate file and
links it to that name, which only one process can. The holder touches the file every minute. A lock whose
holder has ended is stale (`Holder.has_ended`) and is replaced; of several processes that see the same
stale lock one may do so, the one that holds a second lock, named after the token of the stale one.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors
from poa_plugin.train.lock_holder import STALE_SECONDS, UNKNOWN, Holder

NAME = "train.lock"
HEARTBEAT_SECONDS = 60.0
PATIENCE_SECONDS = 5.0
"""How long to wait for another process that is replacing the same stale lock."""


class Lock:
    """A lock that this process holds; see `hold`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._lost_to: Holder | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a `UserError` if another process has taken the lock, after a long standstill of this one."""
        if self._lost_to is not None:
            raise UserError(
                f"'{self.path.parent}' was taken over by {self._lost_to}, as this training had given no "
                f"sign for {STALE_SECONDS / 60:.0f} minutes: it ends, and writes nothing more."
            )

    def touch(self) -> None:
        """Show that this process lives; note it if another process has taken the lock."""
        there = _read_holder(self.path)
        if there is None:  # somebody removed it
            _put(self.path, self.holder)
            there = _read_holder(self.path)
        if there is not None and there.token == self.holder.token:
            os.utime(self.path)  # without a time: the file system's clock sets it
        else:
            self._lost_to = there

    def release(self) -> None:
        """Remove the lock, unless another process has taken it."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # a lock that stays names a process that has ended
            there = _read_holder(self.path)
            if there is not None and there.token == self.holder.token:
                self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while self._lost_to is None and not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that refuses ends the training when that writes
                self.touch()


@contextmanager
def hold(run: Path) -> Iterator[Lock]:
    """Hold the lock on a run's folder, which is made if it is not there.

    Raises:
        UserError: another training holds it; its host, process and start are named. Or the folder cannot
            be written to.
    """
    here, lock = Holder.this_process(), None
    with disk_errors(run):
        made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        with disk_errors(run):
            run.mkdir(parents=True, exist_ok=True)
            _take(run / NAME, here)
        lock = Lock(run / NAME, here)
        _clear_leftovers(lock)
        yield lock
    finally:
        if lock is not None:
            lock.release()
        for folder in made:  # an attempt that wrote nothing leaves no folder
            with suppress(OSError):
                folder.rmdir()


def _take(path: Path, here: Holder) -> None:
    """Take a lock, or replace it if it is stale."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _put(path, here):
        there, silent = _read_holder(path), _silent_seconds(path, here)
        if there is None or silent is None:
            continue  # released since
        if there.has_ended(here, silent):
            _replace(path, there, here)
        elif (path.name != NAME or there is UNKNOWN) and time.monotonic() < deadline:
            time.sleep(0.02)  # it is being written, or it is the right to replace a stale lock
        else:
            raise UserError(_in_use(path, there, here, silent))


def _replace(path: Path, stale: Holder, here: Holder) -> None:
    """Put this process in the place of one that has ended, unless another one has done so."""
    right = path.with_name(f"{path.name}.{stale.token}")
    _take(right, here)
    try:
        there = _read_holder(path)
        if there is not None and there.token == stale.token:
            candidate = _write_candidate(path, here)
            candidate.replace(path)
    finally:
        right.unlink(missing_ok=True)


def _put(path: Path, here: Holder) -> bool:
    """Make a lock where there is none; return whether this process holds it now."""
    candidate = _write_candidate(path, here)
    try:
        os.link(candidate, path)
        return True
    except (FileExistsError, FileNotFoundError):
        # It may still be ours: replaced just now, or linked while the answer of a server was lost.
        there = _read_holder(path)
        return there is not None and there.token == here.token
    except OSError:  # a file system without hard links
        return _create(path, here)
    finally:
        candidate.unlink(missing_ok=True)


def _create(path: Path, here: Holder) -> bool:
    """Make a lock by its name; whoever reads it before it is written sees no holder that can be known."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_text(here))
    except FileExistsError:
        there = _read_holder(path)
        return there is not None and there.token == here.token
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


def _read_holder(path: Path) -> Holder | None:
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


def _clear_leftovers(lock: Lock) -> None:
    """Remove what processes that were killed while they took the lock have left beside it."""
    for pattern in (f".{NAME}.*", f"{NAME}.*"):
        for file in lock.path.parent.glob(pattern):
            file.unlink(missing_ok=True)


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
