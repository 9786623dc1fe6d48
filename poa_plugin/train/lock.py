"""A lock on a run's folder: one training at a time, and one that has ended blocks no other.

The lock is the file `train.lock`, which names its holder (`lock_file`). The holder touches it every minute.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors, write_reason
from poa_plugin.train.lock_file import NAME, acquire, read_holder, try_create
from poa_plugin.train.lock_holder import STALE_SECONDS, UNKNOWN, Holder

HEARTBEAT_SECONDS = 60.0
ATTEMPTS = 100
"""How often to create a folder that other attempts, which created it too, remove at the same moment."""


class Lock:
    """A lock that this process holds; see `hold`.

    A heartbeat that fails ends no training: it warns once, and tries again. Another process can
    take the folder only after ten minutes without one, and this one notices at the next that succeeds.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._lost_to: Holder | None = None
        self._failing = False
        self._last_read = self._last_confirmed = _clock()
        self._mutex = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a `UserError` if another process has taken the lock, after this one stood still for long.

        After a standstill it reads the lock here: the thread may not have run yet.
        """
        if _clock() - self._last_read > STALE_SECONDS / 2:
            self.beat()
        if self._lost_to is not None:
            raise UserError(
                f"'{self.path.parent}' was taken over by {self._lost_to}, as this training had given no "
                f"sign of life for {STALE_SECONDS / 60:.0f} minutes: it ends, and writes nothing more."
            )

    def beat(self) -> None:
        """Touch the lock; if that fails, warn once and continue."""
        try:
            understood = self.touch()
        except OSError as error:
            self._warn_once(f"cannot be touched: {write_reason(error)}")
        else:
            if understood:
                self._failing = False
            else:
                self._warn_once("was written over or may not be read")

    def touch(self) -> bool:
        """Show that this process is alive; notice if another process has taken the lock.

        A lock that somebody has removed is created again, unless so much time has passed that another
        process may have taken it over, trained, and ended.

        Returns:
            Whether the lock names a process.

        Raises:
            OSError: the disk or the file system refuses.
        """
        with self._mutex:
            self._last_read = _clock()
            current = read_holder(self.path)
            if current is None and _clock() - self._last_confirmed > STALE_SECONDS:
                self._lost_to = UNKNOWN
                return False
            if current is None or current is UNKNOWN or current.token == self.holder.token:
                self._last_confirmed = _clock()
            if current is None:
                try_create(self.path, self.holder)
                current = read_holder(self.path)
            if current is UNKNOWN or (current is not None and current.token == self.holder.token):
                os.utime(self.path)  # without a time: the file system's clock sets it
            else:
                self._lost_to = current
            return current is not UNKNOWN

    def release(self) -> None:
        """Remove the lock, unless another process has taken it."""
        self._released.set()
        self._thread.join()
        _release(self.path, self.holder)

    def _beat(self) -> None:
        while self._lost_to is None and not self._released.wait(HEARTBEAT_SECONDS):
            self.beat()

    def _warn_once(self, what: str) -> None:
        if not self._failing:
            self._failing = True
            with suppress(OSError, ValueError):  # the terminal is closed
                print(
                    f"\npoa: warning: the lock '{self.path}' {what}. The training continues; but if that "
                    f"lasts for {STALE_SECONDS / 60:.0f} minutes, one on another host may take the folder.",
                    file=sys.stderr,
                    flush=True,
                )


@contextmanager
def hold(run: Path) -> Iterator[Lock]:
    """Hold the lock on a run's folder, which is created if it does not exist.

    Raises:
        UserError: another training holds it; its host, process and start are named. Or the folder cannot
            be written to.
    """
    this_process, lock = Holder.this_process(), None
    with disk_errors(run):
        created = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        with disk_errors(run):
            _acquire_in(run, this_process)
        lock = Lock(run / NAME, this_process)
        _clear_leftovers(lock)
        yield lock
    finally:
        if lock is not None:
            lock.release()
        else:  # a signal may have come just after it was taken
            _release(run / NAME, this_process)
        for folder in created:  # an attempt that wrote nothing leaves no folder
            with suppress(OSError):
                folder.rmdir()


def _acquire_in(run: Path, this_process: Holder) -> None:
    """Create a folder and acquire the lock in it; try again if another attempt removes it in between."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            run.mkdir(parents=True, exist_ok=True)
            acquire(run / NAME, this_process)
            return
        except FileNotFoundError:
            if attempt == ATTEMPTS:
                raise


def _release(path: Path, this_process: Holder) -> None:
    """Remove a lock, unless another process holds it."""
    with suppress(OSError):  # a lock that remains names a process that has ended
        current = read_holder(path)
        if current is not None and current.token == this_process.token:
            path.unlink(missing_ok=True)


def _clear_leftovers(lock: Lock) -> None:
    """Remove the files of processes that were killed while they acquired the lock."""
    for pattern in (f".{NAME}.*", f"{NAME}.*"):
        for file in lock.path.parent.glob(pattern):
            with suppress(OSError):  # perhaps another user's: it does no harm
                file.unlink(missing_ok=True)


def _clock() -> float:
    """Return seconds that also count while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
