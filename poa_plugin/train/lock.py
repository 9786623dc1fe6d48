"""A lock on a run's folder: one training at a time, and none is kept out by one that has ended.

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
from poa_plugin.train.lock_file import NAME, put, read_holder, take
from poa_plugin.train.lock_holder import STALE_SECONDS, UNKNOWN, Holder

HEARTBEAT_SECONDS = 60.0
ATTEMPTS = 100
"""How often a folder is made that others remove at the same moment, having made it too."""


class Lock:
    """A lock that this process holds; see `hold`.

    A heartbeat that fails ends no training: it says so, once, and tries again. Another process can
    take the folder only after ten minutes without one, and this one notices at the next that succeeds.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._lost_to: Holder | None = None
        self._failing = False
        self._looked = self._seen = _clock()
        self._one_at_a_time = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a `UserError` if another process has taken the lock, after a long standstill of this one.

        After a standstill it looks itself: the thread may not have had its turn yet.
        """
        if _clock() - self._looked > STALE_SECONDS / 2:
            self.beat()
        if self._lost_to is not None:
            raise UserError(
                f"'{self.path.parent}' was taken over by {self._lost_to}, as this training had given no "
                f"sign for {STALE_SECONDS / 60:.0f} minutes: it ends, and writes nothing more."
            )

    def beat(self) -> None:
        """Touch the lock; where that fails, say so once and go on."""
        try:
            understood = self.touch()
        except OSError as error:
            self._say_once(f"cannot be touched: {write_reason(error)}")
        else:
            if understood:
                self._failing = False
            else:
                self._say_once("was written over or may not be read")

    def touch(self) -> bool:
        """Show that this process lives; note it if another process has taken the lock.

        A lock that somebody has removed is made anew, unless so much time has passed that another
        process may have taken it over, trained, and ended.

        Returns:
            Whether the lock names a process.

        Raises:
            OSError: the disk or the file system refuses.
        """
        with self._one_at_a_time:
            self._looked = _clock()
            there = read_holder(self.path)
            if there is None and _clock() - self._seen > STALE_SECONDS:
                self._lost_to = UNKNOWN
                return False
            if there is None or there is UNKNOWN or there.token == self.holder.token:
                self._seen = _clock()
            if there is None:
                put(self.path, self.holder)
                there = read_holder(self.path)
            if there is UNKNOWN or (there is not None and there.token == self.holder.token):
                os.utime(self.path)  # without a time: the file system's clock sets it
            else:
                self._lost_to = there
            return there is not UNKNOWN

    def release(self) -> None:
        """Remove the lock, unless another process has taken it."""
        self._released.set()
        self._thread.join()
        _give_back(self.path, self.holder)

    def _beat(self) -> None:
        while self._lost_to is None and not self._released.wait(HEARTBEAT_SECONDS):
            self.beat()

    def _say_once(self, what: str) -> None:
        if not self._failing:
            self._failing = True
            with suppress(OSError, ValueError):  # a terminal that has gone
                print(
                    f"\npoa: warning: the lock '{self.path}' {what}. The training goes on; but if that "
                    f"lasts for {STALE_SECONDS / 60:.0f} minutes, one on another host may take the folder.",
                    file=sys.stderr,
                    flush=True,
                )


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
            _take_in(run, here)
        lock = Lock(run / NAME, here)
        _clear_leftovers(lock)
        yield lock
    finally:
        if lock is not None:
            lock.release()
        else:  # a signal may have come just after it was taken
            _give_back(run / NAME, here)
        for folder in made:  # an attempt that wrote nothing leaves no folder
            with suppress(OSError):
                folder.rmdir()


def _take_in(run: Path, here: Holder) -> None:
    """Make a folder and take the lock in it; again, where another attempt removes it in between."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            run.mkdir(parents=True, exist_ok=True)
            take(run / NAME, here)
            return
        except FileNotFoundError:
            if attempt == ATTEMPTS:
                raise


def _give_back(path: Path, here: Holder) -> None:
    """Remove a lock, unless another process holds it."""
    with suppress(OSError):  # a lock that stays names a process that has ended
        there = read_holder(path)
        if there is not None and there.token == here.token:
            path.unlink(missing_ok=True)


def _clear_leftovers(lock: Lock) -> None:
    """Remove what processes that were killed while they took the lock have left beside it."""
    for pattern in (f".{NAME}.*", f"{NAME}.*"):
        for file in lock.path.parent.glob(pattern):
            with suppress(OSError):  # another user's, perhaps: it is in nobody's way
                file.unlink(missing_ok=True)


def _clock() -> float:
    """Return seconds that go on while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
