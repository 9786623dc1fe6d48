"""Files that are written whole or not at all, and disks that refuse."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is on a file system that is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "there is a file of this name",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "symbolic links lead in a circle",
}


def write_whole(path: Path, text: str) -> None:
    """Write a text file such that a kill at any moment leaves the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        flush(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's entries, to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file without the one that a kill cut off; none if there is no file."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                records.append(json.loads(line))
    return records


def keep_lines_before(path: Path, step: int) -> None:
    """Drop the records of a JSON Lines file whose `step` is going to be run again."""
    if path.is_file():
        write_lines(path, [record for record in read_lines(path) if record["step"] < step])


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a JSON Lines file anew, whole."""
    write_whole(path, "".join(f"{json.dumps(record)}\n" for record in records))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a JSON Lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


GOES_ON = "Checkpoints that were written before are whole; mend that, and the same command goes on."


@contextmanager
def disk_errors(folder: Path, then: str = GOES_ON) -> Iterator[None]:
    """Turn a disk's refusal of something under `folder` into sentences, the last of which is `then`.

    Other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise UserError(
            f"'{error.filename or folder}' cannot be written: {REASONS[error.errno]}. {then}"
        ) from error
