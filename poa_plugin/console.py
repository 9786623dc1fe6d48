"""Standard output and error that may fail: failures are recorded, and end no work."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from poa_plugin.files import write_reason

REASONS = {errno.EBADF: "it is closed", errno.ENOSPC: "there is no space left where it goes"}
"""Why standard output cannot be written, where the reasons for files would mislead."""


class GuardedText:
    """A text file to which writing never fails: after the first failed write, the rest is dropped.

    A reader that has gone (`| head`), a full disk behind `> file` and a closed descriptor end no
    training. Characters that the encoding does not have are written as escapes.

    Attributes:
        failure: the first write that failed, or None.
    """

    def __init__(self, file: TextIO | None) -> None:
        self.failure: OSError | None = None
        self._original = file
        if file is None:  # Python's sign that the descriptor was closed when it started
            self.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._file = io.TextIOWrapper(io.BytesIO()) if file is None else file
        self._errors = self._file.errors
        self._set_errors("backslashreplace")
        _wait_for_readers(self._file)

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self.failure is None:
            try:
                return self._file.write(text)
            except (OSError, ValueError) as error:
                self._fail(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write, or drop."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush; a failure is recorded."""
        if self.failure is None:
            try:
                self._file.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def restored(self) -> TextIO | None:
        """Return the original file, flushed and restored."""
        self.flush()
        self._set_errors(self._errors)
        return self._original

    def __getattr__(self, name: str) -> Any:
        """Everything else is the file's."""
        return getattr(self._file, name)

    def _set_errors(self, errors: str | None) -> None:
        if self.failure is None and isinstance(self._file, io.TextIOWrapper):
            self._file.reconfigure(errors=errors)

    def _fail(self, error: OSError | ValueError) -> None:
        """Record a failure; what is still in the file's buffer goes nowhere, so that it can be closed."""
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            if not self._file.closed:
                raise error
            error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.failure = error
        descriptor = _descriptor(self._file)
        if descriptor is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class Console:
    """What became of a command's output.

    Attributes:
        out, err: the guarded standard output and error.
    """

    def __init__(self) -> None:
        _open_closed_descriptors()
        self.out, self.err = GuardedText(sys.stdout), GuardedText(sys.stderr)

    def exit_status(self, status: int, is_result: bool) -> int:
        """Return a command's exit status in view of what could not be printed, and say so on stderr.

        A reader that has gone has seen what it wanted: that is silent, and no failure.

        Args:
            status: without that.
            is_result: whether what is printed is all that the command is for.
        """
        self.out.flush()
        failure = self.out.failure
        if failure is None or failure.errno == errno.EPIPE:
            return status
        reason = REASONS.get(failure.errno or 0) or write_reason(failure)
        suffix = "" if is_result else "; the command itself continued"
        self.err.write(f"poa: Standard output could not be written: {reason}{suffix}.\n")
        self.err.flush()
        return (status or 2) if is_result else status


@contextmanager
def guarded_console() -> Iterator[Console]:
    """Guard `sys.stdout` and `sys.stderr` while the context lasts (see `GuardedText`)."""
    console = Console()
    sys.stdout, sys.stderr = cast(TextIO, console.out), cast(TextIO, console.err)
    try:
        yield console
    finally:
        sys.stdout = cast(TextIO, console.out.restored())
        sys.stderr = cast(TextIO, console.err.restored())


def _open_closed_descriptors() -> None:
    """Open /dev/null where a standard descriptor is closed; the next file would get its number."""
    for descriptor, file in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if file is None:
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _wait_for_readers(file: TextIO) -> None:
    """Let writes to a slow reader wait, where another program made the pipe one that refuses them."""
    descriptor = _descriptor(file)
    if descriptor is not None and not os.get_blocking(descriptor):
        os.set_blocking(descriptor, True)


def _descriptor(file: TextIO) -> int | None:
    try:
        return file.fileno()
    except (OSError, ValueError):  # a file in memory, or closed
        return None
