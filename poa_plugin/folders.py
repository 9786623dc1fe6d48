"""Folders that are written completely or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import REASONS, flush

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""What file systems without locks answer."""

Refusal = Callable[[Path], str | None]
"""Says why a folder must not be replaced; None where it may be."""


@contextmanager
def write_folder(
    target: str | Path,
    refusal: Refusal | None = None,
    advice: str = "choose a new or empty folder",
) -> Iterator[Path]:
    """Give an empty hidden folder, which gets the target's name when the block ends without an error.

    After a kill at any moment the target is as it was or as it shall be. Where a folder is replaced, there is
    an instant between two renames at which it has a hidden name only: the next call for this target puts
    it back. What else a kill left is removed by the next call.

    Args:
        target: a folder that does not exist, or is empty.
        refusal: if given, a folder that is not empty is replaced whole, unless this refuses.
        advice: what to do if the target exists already, for the error.

    Raises:
        UserError: the target exists already or is not replaced, another process is writing it, or the
            disk refuses.
    """
    place = _Place(Path(target), refusal, advice)
    try:
        with _disk_refusals(place):
            place.open()
            yield place.partial
            place.finish()
    finally:
        place.close()


class _Place:
    """The place of a folder to be written, and the hidden names beside it."""

    def __init__(self, target: Path, refusal: Refusal | None, advice: str) -> None:
        self.target, self.refusal, self.advice = target, refusal, advice
        self.folder = Path(os.path.realpath(target))
        if self.folder == Path.cwd() or os.path.ismount(self.folder):
            raise UserError(
                f"'{target}' is the current folder or the first one of a file system, which cannot be "
                f"replaced: name a folder in it, such as '{target / 'network'}'."
            )
        self.partial = self.folder.with_name(f".{self.folder.name}.poa-partial")
        self.replaced = self.folder.with_name(f".{self.folder.name}.poa-replaced")
        self._parents: list[Path] = []
        self._lock: int | None = None
        self._is_made = self._is_set_aside = False

    def open(self) -> None:
        """Clear what a kill left, check the target, and create the hidden folder."""
        self._recover()
        self._check()
        self._make_parents()
        self.partial.mkdir()
        self._is_made = True
        self._lock = _lock(self.partial)
        if self.folder.exists():
            shutil.copymode(self.folder, self.partial)

    def finish(self) -> None:
        """Flush the hidden folder to the disk, and give it the target's name."""
        for root, _, files in os.walk(self.partial):
            for name in files:
                flush(Path(root, name))
            flush(Path(root))
        self._check()
        (self.partial / LOCK).unlink()
        if _is_filled(self.folder):
            self.folder.rename(self.replaced)
            self._is_set_aside = True
        self.partial.rename(self.folder)
        self._is_made = self._is_set_aside = False
        self._parents = []
        flush(self.folder.parent)
        _remove(self.replaced)

    def close(self) -> None:
        """Undo what was not finished."""
        if self._is_made:
            shutil.rmtree(self.partial, ignore_errors=True)
        if self._is_set_aside:
            self.replaced.rename(self.folder)
        for parent in reversed(self._parents):
            with suppress(OSError):
                parent.rmdir()
        if self._lock is not None:
            os.close(self._lock)

    def _recover(self) -> None:
        """Remove what a call that was killed left; put a folder back that it had set aside."""
        if self.partial.is_dir():
            lock = _lock(self.partial)
            if lock is None:
                raise UserError(
                    f"Another process is writing '{self.target}': wait for it, or choose another folder."
                )
            _remove(self.partial)
            os.close(lock)
        if self.replaced.is_dir():
            if _is_filled(self.folder):
                _remove(self.replaced)
            else:
                self.replaced.rename(self.folder)

    def _check(self) -> None:
        """Raise a `UserError` if the target may not be written."""
        is_folder = self.folder.is_dir()
        if not os.path.lexists(self.folder) or (is_folder and not _is_filled(self.folder)):
            return
        if not is_folder or self.refusal is None:
            raise UserError(f"'{self.target}' already exists: {self.advice}.")
        reason = self.refusal(self.folder)
        if reason is not None:
            raise UserError(f"'{self.target}' is not replaced: {reason}.")

    def _make_parents(self) -> None:
        """Create the missing folders above the target."""
        missing, parent = [], self.folder.parent
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._parents.append(parent)


def _lock(folder: Path) -> int | None:
    """Lock a folder until this process ends or closes the descriptor; None if another one holds it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return descriptor


def _is_filled(folder: Path) -> bool:
    """Return whether a folder exists and is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextmanager
def _disk_refusals(place: _Place) -> Iterator[None]:
    """Turn a disk's refusal into a sentence about the target, or about the file that it concerns."""
    try:
        yield
    except OSError as error:
        name = Path(str(error.filename or place.partial))
        places = (place.partial, place.replaced, place.folder)
        is_target = any(name.is_relative_to(p) for p in places) or place.folder.is_relative_to(name)
        if error.errno not in REASONS and not (error.filename and is_target):
            raise
        what = f"'{place.target}' cannot be written" if is_target else f"'{name}' cannot be used"
        reason = REASONS.get(error.errno or 0, f"the system says '{error.strerror}'")
        if name == place.partial and os.path.isdir(place.folder):  # noqa: PTH112 (raises nothing)
            reason += f" (a new folder is first created beside it, in '{place.folder.parent}')"
        raise UserError(f"{what}: {reason}. Nothing was written.") from error
