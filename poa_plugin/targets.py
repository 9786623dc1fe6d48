"""The outputs of a command, checked before it works for hours.

The checks write a few bytes beside the target and remove them: permissions, quotas and full or read-only
disks answer differently for each user and file system, and only an attempt tests them all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import write_reason, writing

PROBE = 4096
"""Bytes of the attempt: one block, which a full disk refuses."""

TRAINING = (
    "config.yaml",
    "metrics.jsonl",
    "skipped_steps.jsonl",
    "bad_images.jsonl",
    "ckpt/",
    "events/",
    "loggers/",
)
EVALUATION = ("results.json", "results.csv")
PLOTS = ("sweep_pareto.png", "sweep_map.png")
"""What commands write into a run's folder, and into its `eval` folder."""

MARGIN = 16
"""Bytes of a name that are left for unfinished files beside the target, such as `.NAME.partial`."""


def check_folder_target(folder: Path, what: str) -> None:
    """Raise if a folder could not be written to.

    Args:
        folder: the target, which need not exist.
        what: it is, to begin the sentence, such as `--to` or `output_dir`.

    Raises:
        UserError: it is a file, lies under one, may not be written to, is on a full or read-only disk,
            or has an impossible name.
    """
    _check_name(folder, what)
    with writing(folder):
        if _exists(folder, what) and not folder.is_dir():
            raise _in_the_way(folder, what, "folder")
        _check_writable(folder if folder.is_dir() else _nearest_folder(folder, what), folder, what)


def check_file_target(file: Path, what: str) -> None:
    """Raise if a file could not be written; see `check_folder_target`."""
    _check_name(file, what)
    with writing(file):
        if _exists(file, what) and not file.is_file():
            raise _in_the_way(file, what, "file")
        _check_writable(_nearest_folder(file, what), file, what)


def check_entries(folder: Path, what: str, names: Sequence[str]) -> None:
    """Raise if a folder, or what will be written into it, could not be; see `check_folder_target`.

    Args:
        folder: the target.
        what: it is.
        names: of files in it, and of folders, which end with a slash.
    """
    check_folder_target(folder, what)
    for name in names:
        entry, is_folder = folder / name, name.endswith("/")
        with writing(entry):
            if _exists(entry, what) and not (entry.is_dir() if is_folder else entry.is_file()):
                raise _in_the_way(entry, what, "folder" if is_folder else "file")


@contextmanager
def removed_on_failure(target: Path) -> Iterator[None]:
    """Remove a new target, and the folders made for it, where an exception ends its writing half-way.

    A target that existed before is left alone: others may have written into it meanwhile.
    """
    made = [path for path in (target, *target.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if target in made:
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        for folder in made[1:]:
            with suppress(OSError):  # not made after all, or somebody else has written there
                folder.rmdir()
        raise


def _check_name(path: Path, what: str) -> None:
    text = str(path)
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        size = 0
    if not size or "\0" in text:
        raise UserError(f"{what} is {text!r}, and no file can have such a name.")
    longest = 255 - MARGIN
    for part in path.parts:
        if len(os.fsencode(part)) > longest:
            raise _refusal(path, what, f"a name in it is longer than {longest} bytes")
    if size + MARGIN > 4096:
        raise _refusal(path, what, "the path is longer than 4096 bytes")


def _exists(path: Path, what: str) -> bool:
    """Return whether anything has this name, including a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _refusal(path, what, write_reason(error)) from error
    return True


def _nearest_folder(path: Path, what: str) -> Path:
    """Return the existing folder in which the rest of the path would be created."""
    for parent in path.parents:
        if _exists(parent, what):
            if not parent.is_dir():
                raise _refusal(path, what, f"it lies under '{parent}', which is {_kind(parent)}")
            return parent
    return Path()


def _check_writable(folder: Path, target: Path, what: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as attempt:
            attempt.write(bytes(PROBE))
            attempt.flush()
    except OSError as error:
        raise _refusal(target, what, write_reason(error)) from error


def _kind(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"a link to '{path.readlink()}', which leads nowhere"
    if path.is_dir():
        return "a folder"
    return "a file" if path.is_file() else "neither a file nor a folder"


def _in_the_way(path: Path, what: str, needed: str) -> UserError:
    return UserError(
        f"{what} '{path}' already exists: it is {_kind(path)}, and a {needed} is needed."
    )


def _refusal(path: Path, what: str, reason: str) -> UserError:
    shown = str(path)
    if len(shown) > 120:
        shown = f"{shown[:60]}...{shown[-40:]}"
    return UserError(f"{what} '{shown}' cannot be written: {reason}.")
