"""Whether a checkpoint can be used: of a format that this version reads, its files those that were written.

`state.json` says which format the others have. `state.json` itself and its entry in `checksums.json` keep
their form in all formats, so that a version of the package can tell a newer format from damage.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.version import __version__

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CHECKSUMS = "checksums.json"
FILES = (STATE, MODEL, OPTIMIZER)
"""In the order in which they are compared: the state says whether the others can be read."""

FORMAT_KEY = "format_version"
"""Where `state.json` has the format; a checkpoint without it is of version 1."""
FORMAT_VERSION = 1
"""The format that is written: raise it when an older version of the package would misread a checkpoint."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Errors that say that there is no file of this name."""


class UnreadableError(UserError):
    """A checkpoint may not be read by this user, or not now; nothing says that it is damaged."""


class NewerFormatError(UserError):
    """A checkpoint was written by a newer version of the package, in a format that this one cannot read."""


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint's `state.json`, and with it the format's version."""
    text = json.dumps({FORMAT_KEY: FORMAT_VERSION, **state}, indent=2)
    (folder / STATE).write_text(text, encoding="utf-8")


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
    """Return a checkpoint's `state.json`.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        ValueError: it is no JSON object, or its format's version is no positive integer.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError("it is no JSON object")
    version = state.get(FORMAT_KEY, 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"{FORMAT_KEY} is {version!r}")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"The checkpoint '{folder}' has format version {version}; poa_plugin {__version__} reads "
            f"versions up to {FORMAT_VERSION}. Upgrade poa_plugin to use it."
        )
    return state


def damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if each is as it was written.

    Args:
        folder: named by its step, or `.<step>.removed`.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
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
            f"You may not read '{place}': that does not mean damage; ask its owner for permission."
        )
    return UnreadableError(f"'{place}' cannot be read now: {error.strerror or error}.")


class VerifiedCheckpoints:
    """Checkpoints that this process has written or compared, so that none is read again to be counted."""

    def __init__(self) -> None:
        self._signatures: dict[Path, tuple[tuple[int, int, int], ...]] = {}

    def add(self, folder: Path) -> None:
        """Count a checkpoint as intact until one of its files changes."""
        self._signatures[folder.absolute()] = _signature(folder)

    def is_intact(self, folder: Path) -> bool:
        """Whether a checkpoint is intact, as far as it may be read."""
        try:
            if self._signatures.get(folder.absolute()) == _signature(folder):
                return True
            if damage(folder) is not None:
                return False
            self.add(folder)
        except (OSError, NewerFormatError, UnreadableError):
            return False
        return True


def _compare(folder: Path) -> str | None:
    """Compare a checkpoint's files with their checksums."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    if problem := _compare_file(folder, STATE, sums):
        return problem
    try:
        step = read_state(folder)["step"]
    except NewerFormatError:
        raise
    except (ValueError, KeyError) as error:
        return f"its {STATE} cannot be used ({error})"
    for name in FILES:
        if name != STATE and (problem := _compare_file(folder, name, sums)):
            return problem
    named = folder.name.removeprefix(".").removesuffix(".removed")
    return None if named == str(step) else f"it was written for step {step}"


def _compare_file(folder: Path, name: str, sums: Any) -> str | None:
    """Compare one file with what `checksums.json` says about it."""
    try:
        size, digest = sums[name]["bytes"], sums[name]["sha256"]
    except (KeyError, TypeError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    n_bytes = (folder / name).stat().st_size
    if n_bytes != size:
        return f"its file {name} has {n_bytes} bytes, not {size}"
    if checksum(folder / name)["sha256"] != digest:
        return f"its file {name} is not the one that was written (SHA-256)"
    return None


def _signature(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when a checkpoint's files do: their inodes, sizes, and times of change."""
    stats = [(folder / name).stat() for name in (*FILES, CHECKSUMS)]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
