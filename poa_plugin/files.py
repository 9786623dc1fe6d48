"""Files that are written completely or not at all, and errors of disks."""

from __future__ import annotations

import errno
import json
import os
import sys
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
    errno.EISDIR: "there is a folder of this name",
    errno.ENOTEMPTY: "there is a folder of this name, and it is not empty",
    errno.ENOENT: "a folder of its path does not exist",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "the links in its path lead in a circle",
    errno.EFBIG: "the file would be larger than the file system, or a limit (ulimit -f), allows",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network file system has lost it",
    errno.ENOMEM: "there is not enough memory",
}
"""Why a file cannot be written, by the system's error number."""

READ_REASONS = {
    **REASONS,
    errno.EACCES: "you may not read it",
    errno.EPERM: "you may not read it",
    errno.ENOENT: "it does not exist",
    errno.EISDIR: "it is a folder",
}
"""Why a file cannot be read, by the system's error number."""

ONLY_WHEN_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that reading never causes: they concern writing even where they name no file."""


def write_reason(error: OSError) -> str:
    """Return why a file cannot be written, as a phrase."""
    return REASONS.get(error.errno or 0, _system_message(error))


def read_reason(error: OSError) -> str:
    """Return why a file cannot be read, as a phrase."""
    return READ_REASONS.get(error.errno or 0, _system_message(error))


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Turn any refusal of the system into a sentence that `path` cannot be written.

    For code that only writes; `disk_errors` is for code that reads other files, too.

    Args:
        path: what is written; a refusal that names another file names that one.
        then: a further sentence, such as what was left behind.
    """
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or path
        sentence = f"'{shown(where)}' cannot be written: {write_reason(error)}. {advice}"
        raise UserError(sentence.rstrip()) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any refusal of the system into a sentence that `path`, or the file it names, cannot be read."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise UserError(f"'{shown(where)}' cannot be read: {read_reason(error)}.") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file such that a kill at any moment leaves the old one or the new one; text as UTF-8."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
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


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        with reading(path):
            return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = (
            "it is nested too deeply"
            if isinstance(error, RecursionError)
            else f"it is not JSON ({error})"
        )
        raise UserError(f"'{path}' is damaged: {reason}.") from error


def read_records(path: Path, key: str, kind: type) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file; none if there is no file.

    A last line that a kill cut off is left out. So is any other damaged line, with a warning on stderr: a
    damaged record ends no training.

    Args:
        path: of the file.
        key: which every record has.
        kind: of the value of that key.
    """
    if not path.is_file():
        return []
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        record: Any = None
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get(key), kind):
            records.append(record)
        elif number < len(lines):
            print(f"WARNING: Line {number} of '{path}' is damaged and left out.", file=sys.stderr)
    return records


def drop_records_from(path: Path, step: int) -> None:
    """Drop the records of a JSON Lines file from `step` on, which is going to be run again."""
    if path.is_file():
        records = read_records(path, "step", int)
        write_records(path, [record for record in records if record["step"] < step])


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON Lines file."""
    write_atomically(path, "".join(f"{json.dumps(record)}\n" for record in records))


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a JSON Lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


RESUMES = "Earlier checkpoints are intact; fix that, and the same command resumes."


@contextmanager
def disk_errors(folder: Path, advice: str = RESUMES) -> Iterator[None]:
    """Turn a disk's refusal of something under `folder` into sentences, the last of which is `advice`.

    A refusal counts if it names a file under the folder, or names none and is of a kind that only
    writing ends in, such as a full disk. Others pass: an error of reading elsewhere is not one of writing.
    """
    try:
        yield
    except OSError as error:
        if not _is_about(error, folder):
            raise
        where = error.filename or folder
        raise UserError(
            f"'{shown(where)}' cannot be written: {write_reason(error)}. {advice}"
        ) from error


def shown(path: object) -> str:
    """Return a path as text for a sentence; the system gives some as bytes or as a number."""
    return os.fsdecode(path) if isinstance(path, bytes) else str(path)


def _is_about(error: OSError, folder: Path) -> bool:
    if error.errno is None:
        return False
    if not isinstance(error.filename, str | bytes):
        return error.errno in ONLY_WHEN_WRITING
    base = os.path.abspath(folder)  # noqa: PTH100 (as it is spelled: links are not followed)
    named = os.path.abspath(shown(error.filename))  # noqa: PTH100
    return os.path.commonpath([base, named]) == base or base.startswith(named.rstrip("/") + "/")


def _system_message(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
