"""Whether a checkpoint's files are those that were written: by size and SHA-256, where they may be read."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any, cast

from poa_plugin.errors import UserError

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CHECKSUMS = "checksums.json"
FILES = (MODEL, OPTIMIZER, STATE)

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Errors that say that there is no file of this name."""


class UnreadableError(UserError):
    """A checkpoint may not be read by this user, or not now; nothing says that it is damaged."""


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` for the files of a checkpoint."""
    sums = {name: checksum(folder / name) for name in FILES}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")


def checksum(file: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its SHA-256."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def read_state(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's `state.json`."""
    return cast(dict[str, Any], json.loads((folder / STATE).read_text(encoding="utf-8")))


def damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if each is as it was written.

    Args:
        folder: named by its step, or `.<step>.removed`.

    Raises:
        UnreadableError: the files may not be read, or the system refuses for a reason outside them.
    """
    try:
        return _compare(folder)
    except OSError as error:
        which = f"its file {Path(error.filename).name}" if error.filename else "one of its files"
        if error.errno in ABSENT:
            return f"{which} is missing"
        if error.errno == errno.EIO:
            return f"{which} cannot be read ({error.strerror})"
        raise unreadable(folder, error) from error


def unreadable(place: Path, error: OSError) -> UnreadableError:
    """Return the sentence for a checkpoint, or a folder of checkpoints, that cannot be read."""
    place = Path(error.filename or place)
    if isinstance(error, PermissionError):
        return UnreadableError(
            f"You may not read '{place}': that is no sign of damage; ask its owner for permission."
        )
    return UnreadableError(f"'{place}' cannot be read now: {error.strerror or error}.")


class VerifiedCheckpoints:
    """Checkpoints that this process has written or compared, so that none is read again to be counted."""

    def __init__(self) -> None:
        self._signatures: dict[Path, tuple[tuple[int, int, int], ...]] = {}

    def add(self, folder: Path) -> None:
        """Take a checkpoint as whole until one of its files changes."""
        self._signatures[folder.absolute()] = _signature(folder)

    def is_whole(self, folder: Path) -> bool:
        """Whether a checkpoint is whole, as far as it may be read."""
        try:
            if self._signatures.get(folder.absolute()) == _signature(folder):
                return True
            if damage(folder) is not None:
                return False
            self.add(folder)
        except (OSError, UnreadableError):
            return False
        return True


def _compare(folder: Path) -> str | None:
    """Compare a checkpoint's files with their checksums."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        expected = {name: (sums[name]["bytes"], sums[name]["sha256"]) for name in FILES}
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    for name, (size, digest) in expected.items():
        file = folder / name
        found = file.stat().st_size
        if found != size:
            return f"its file {name} has {found} bytes, not {size}"
        if checksum(file)["sha256"] != digest:
            return f"its file {name} is not the one that was written (SHA-256)"
    try:
        step = read_state(folder)["step"]
    except (ValueError, KeyError, TypeError) as error:
        return f"its {STATE} cannot be used ({error})"
    named = folder.name.removeprefix(".").removesuffix(".removed")
    return None if named == str(step) else f"it was written for step {step}"


def _signature(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when a checkpoint's files do: their inodes, sizes, and times of change."""
    stats = [(folder / name).stat() for name in (*FILES, CHECKSUMS)]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
