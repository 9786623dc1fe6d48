"""Whether a checkpoint can be used: of a format that this version reads, its files those that were written.

`state.json` says which format the others have. `state.json` itself and its entry in `checksums.json` keep
their form in all formats, so that a version of the package can tell a newer format from damage. Of version 1,
`checksums.json` has all files. Since version 2 it has `state.json` and the manifest, which has the others.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from poa_plugin.errors import UserError
from poa_plugin.files import flush
from poa_plugin.train.manifest import KINDS, MANIFEST, Manifest, manifest_of_files, parse
from poa_plugin.version import __version__

STATE, CHECKSUMS = "state.json", "checksums.json"

FORMAT_KEY = "format_version"
"""Where `state.json` has the format; a checkpoint without it is of version 1."""
FORMAT_VERSION = 2
"""The format that is written: raise it when an older version of the package would misread a checkpoint."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Errors that say that there is no file of this name."""


class UnreadableError(UserError):
    """A checkpoint may not be read by this user, or not now; nothing says that it is damaged."""


class NewerFormatError(UserError):
    """A checkpoint was written by a newer version of the package, in a format that this one cannot read."""


def write_description(folder: Path, state: Mapping[str, Any], manifest: Manifest) -> None:
    """Write the JSON files of a checkpoint, whose pieces are there, and flush them: state, manifest, checksums.

    Raises:
        OSError: the disk refuses.
    """
    version = {FORMAT_KEY: FORMAT_VERSION}
    _write_json(folder / STATE, {**version, **state})
    _write_json(folder / MANIFEST, {**version, **manifest.to_json()}, indent=None)
    _write_json(folder / CHECKSUMS, {name: checksum(folder / name) for name in (STATE, MANIFEST)})


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


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint of any format.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: there is no manifest in this format, and a file of tensors cannot be read.
        ValueError, KeyError: `state.json` or the manifest cannot be used.
    """
    state = read_state(folder)
    if state.get(FORMAT_KEY, 1) > 1:
        return parse((folder / MANIFEST).read_text(encoding="utf-8"))
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    return manifest_of_files(folder, int(state["step"]), {kind: sums[kind] for kind in KINDS})


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
    step = folder.name.removeprefix(".").removesuffix(".removed")
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    if problem := _compare_file(folder, STATE, sums, step):
        return problem
    try:
        state = read_state(folder)
        written_for, has_manifest = str(state["step"]), state.get(FORMAT_KEY, 1) > 1
    except NewerFormatError:
        raise
    except (ValueError, KeyError) as error:
        return f"its {STATE} cannot be used ({error})"
    if has_manifest:
        if problem := _compare_file(folder, MANIFEST, sums, step):
            return problem
        try:
            manifest = read_manifest(folder)
        except (ValueError, KeyError) as error:
            return f"its {MANIFEST} cannot be used ({error})"
        sums, names = manifest.files, sorted(manifest.files)
        if str(manifest.step) != written_for:
            return f"its {MANIFEST} was written for step {manifest.step}"
    else:
        names = list(KINDS)
    for name in names:
        if problem := _compare_file(folder, name, sums, written_for):
            return problem
    return None if step == written_for else f"it was written for step {written_for}"


def _compare_file(folder: Path, name: str, sums: Any, step: str) -> str | None:
    """Compare one file with what the checksums, or the manifest, say about it."""
    try:
        size, digest = sums[name]["bytes"], sums[name]["sha256"]
    except (KeyError, TypeError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    file = folder / name
    n_bytes = file.stat().st_size
    if n_bytes == size and checksum(file)["sha256"] == digest:
        return None
    other = _step_in(file)
    if other not in (None, step):
        return f"its file {name} was written for step {other}"
    if n_bytes != size:
        return f"its file {name} has {n_bytes} bytes, not {size}"
    return f"its file {name} is not the one that was written (SHA-256)"


def _step_in(file: Path) -> str | None:
    """Return the step that a file was written for; None if it does not say."""
    try:
        if file.suffix == ".json":
            return str(json.loads(file.read_text(encoding="utf-8"))["step"])
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get("step")
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def _write_json(file: Path, values: object, indent: int | None = 2) -> None:
    file.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    flush(file)


def _signature(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when a checkpoint's files do: their inodes, sizes, and times of change."""
    stats = [file.stat() for file in sorted(folder.iterdir())]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
