"""`python -m poa_plugin` and `poa`: the command line, ready for Ctrl-C before anything is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

MAIN_PROCESS = os.getpid()


def run() -> int:
    """Run the command line on `sys.argv`; Ctrl-C at any moment is a sentence and exit status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from poa_plugin.cli import main

        return main()
    except KeyboardInterrupt:
        _end()
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, _end)  # what remains is Python's cleanup


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, where that is safe.

    In the middle of an import an exception can be swallowed, turned into another one, or printed with a
    traceback: the process ends at once, for nothing has been done yet. Worker processes end in silence.
    """
    if os.getpid() != MAIN_PROCESS:
        os._exit(130)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    try:
        os.write(2, b"poa: interrupted\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    sys.exit(run())
