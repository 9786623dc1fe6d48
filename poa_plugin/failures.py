"""Exceptions that reach the command line, as sentences: nothing a user does ends in a traceback."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence

from poa_plugin.errors import UserError
from poa_plugin.files import shown, write_reason

USER_ERROR, BUG, INTERRUPTED = 2, 70, 130
"""Exit statuses; 70 is EX_SOFTWARE of sysexits.h, an error in the program itself."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc", re.IGNORECASE
)
SHARED_MEMORY = re.compile(
    r"unable to (?:write to|open|mmap|resize)\b.*(?:torch_|shm)", re.IGNORECASE
)
REASONS = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "it does not exist",
}
"""Why the system refused, where it is not known whether the file was read or written."""


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the sentence and the exit status of an exception that a user can do something about.

    None stands for an error in this package, which is to stay visible as one (see `report_bug`).
    """
    if isinstance(error, UserError):
        return re.sub(r"\s*\n\s*", " ", str(error)), USER_ERROR
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if _is_out_of_memory(error):
        return (
            "There is not enough memory: use smaller images, batches or a smaller --memory, or a "
            f"machine with more{_detail(error)}."
        ), USER_ERROR
    if isinstance(error, RuntimeError) and SHARED_MEMORY.search(str(error)):
        return (
            "The shared memory (/dev/shm), through which worker processes hand over images, is too "
            "small: allow the job or container more, or set data.num_workers=0."
        ), USER_ERROR
    if isinstance(error, RecursionError):
        return "Something that was read is nested too deeply.", USER_ERROR
    if isinstance(error, OSError):
        return _system_refusal(error), USER_ERROR
    if isinstance(error, ImportError) and not (error.name or "").startswith("poa_plugin"):
        return f"A package cannot be imported: {_one_line(error)}.", USER_ERROR
    return None


def say(error: BaseException, argument_list: Sequence[str]) -> int:
    """Print an exception's sentence on stderr; return the exit status.

    `POA_DEBUG=1`, or `--debug` among the command's words, shows its traceback, too.
    """
    if "--debug" in argument_list or os.environ.get("POA_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    sentence, status = explain(error) or (report_bug(error, argument_list), BUG)
    print(f"poa: {sentence}", file=sys.stderr)
    return status


def report_bug(error: BaseException, argument_list: Sequence[str]) -> str:
    """Write an exception's traceback into a file; return a sentence that says where.

    Args:
        error: the exception.
        words: the command's arguments.
    """
    trace = "".join(traceback.format_exception(error))
    name = type(error).__name__
    about = f"poa {' '.join(argument_list)}\nPython {sys.version}\n{platform.platform()}\n\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="poa-error-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="replace",
        ) as file:
            file.write(about + trace)
    except OSError:  # no temporary folder that can be written to: the traceback is shown instead
        return (
            f"{trace}poa: This is an error in poa-plugin itself ({name}): please report the above."
        )
    return (
        f"This is an error in poa-plugin itself ({name}: {_one_line(error)}), not in the command: please "
        f"report '{file.name}', which has the traceback."
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def _detail(error: BaseException) -> str:
    """Return the requested size, where torch names it."""
    match = re.search(
        r"(?:tried to allocate|allocate) ([\d.]+ (?:bytes|[KMGT]iB))", str(error), re.IGNORECASE
    )
    return f" ({match[1]} were requested)" if match else ""


def _system_refusal(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "A process that was written to has ended."
    named = error.filename2 or error.filename
    reason = REASONS.get(error.errno or 0) or write_reason(error)
    if named is None or isinstance(named, int):
        return f"The system refused: {reason}."
    return f"'{shown(named)}' cannot be read or written: {reason}."


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else f"{text[:200]}..."
