"""Folders and files that cannot be read, in sentences: missing permission, files that are gone, damage."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poa_plugin.errors import UserError

REASONS = {
    errno.EACCES: "you may not read it",
    errno.EPERM: "you may not read it",
    errno.ENOENT: "it does not exist (any more)",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "the disk reports an input/output error",
    errno.ESTALE: "the file server has lost it (stale file handle)",
    errno.ENOTCONN: "the file server does not answer",
    errno.ETIMEDOUT: "the file server does not answer",
    errno.EHOSTDOWN: "the file server does not answer",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
}
PERMANENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG))
"""Errors that say that there is no such file: reading again does not help."""
FORBIDDEN = frozenset((errno.EACCES, errno.EPERM))


def reason_of(error: OSError) -> str:
    """Return half a sentence on why something could not be read."""
    return REASONS.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)


@contextmanager
def read_errors(what: str, path: str | Path | None) -> Iterator[None]:
    """Turn a refusal to read into a sentence.

    Args:
        what: the kind of thing, such as `folder`.
        path: where it is; the error's path is named too, where it is another.
    """
    try:
        yield
    except OSError as error:
        filename = error.filename
        where = f" '{filename}':" if filename is not None and str(filename) != str(path) else ""
        raise UserError(
            f"The {what} '{path}' cannot be read:{where} {reason_of(error)}."
        ) from error


def kind_of(path: str | Path) -> str:
    """Return `folder`, `file`, or an empty string where nothing exists.

    Raises:
        UserError: it cannot be determined, such as in a folder that may not be entered; or the path leads
            through a file.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return ""
    except ValueError as error:  # a NUL in it
        raise UserError(f"{str(path)!r} is no path: {error}.") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {reason_of(error)}.") from error
    return "folder" if stat.S_ISDIR(mode) else "file"


def nearest_folder(path: str | Path) -> str:
    """Return the end of a sentence about a path that does not exist: which part of it does."""
    for parent in Path(path).absolute().parents:
        if kind_of(parent) == "folder":
            return f"'{parent}' exists, '{Path(path).absolute().relative_to(parent).parts[0]}' in it does not"
    return "no part of its path exists"
