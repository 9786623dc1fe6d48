"""Commands that run side by side as child processes, and end together."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from poa_plugin.errors import UserError

PERIOD = 0.1
"""Seconds between checks of the children."""

PATIENCE = 60.0
"""Seconds that a child has to save its state, before it is killed."""

PR_SET_PDEATHSIG = 1
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
"""Looked up before any fork: between fork and exec a child should do as little as it can."""


class Child:
    """A command under way, whose output is printed line by line with its name in front.

    Attributes:
        lines: the last lines of its output, standard error among it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=100)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            bufsize=1,
            preexec_fn=_end_with_parent if PRCTL is not None else None,
        )
        self._reader = threading.Thread(target=self._print_lines, daemon=True)
        self._reader.start()

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    @property
    def reason(self) -> str:
        """The sentence that it ended with, where it is one of this package's commands."""
        sentences = [line.removeprefix("poa: ") for line in self.lines if line.startswith("poa: ")]
        return f": {sentences[-1]}" if sentences else "."

    def ask_to_end(self) -> None:
        """Send SIGTERM, on which training saves."""
        if self.status is None:
            self._process.terminate()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end and the end of its output; after some seconds it is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _print_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))
                print(f"{self.name:>7} | {line}", end="", flush=True)


def run_side_by_side(commands: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Run commands at the same time; when one fails or this process is asked to end, all end.

    Args:
        commands: by name.

    Returns:
        The last lines of each command's output.

    Raises:
        UserError: one ended with another exit status than 0; with its reason.
    """
    children: list[Child] = []
    with _signals_raise():
        try:
            for name, command in commands.items():
                children.append(Child(name, command))
            while any(child.status is None for child in children):
                _raise_failure(children)
                time.sleep(PERIOD)
            _raise_failure(children)
        finally:
            for child in children:
                child.ask_to_end()
            for child in children:
                child.wait(PATIENCE)
    return {child.name: list(child.lines) for child in children}


def _raise_failure(children: Sequence[Child]) -> None:
    for child in children:
        if child.status:
            child.wait()
            how = f"exit status {child.status}" if child.status > 0 else _signal(-child.status)
            raise UserError(f"'{child.name}' ended with {how}{child.reason}")


def _signal(number: int) -> str:
    names = {member.value: member.name for member in signal.Signals}
    hint = ", which is often due to a lack of memory" if number == signal.SIGKILL else ""
    return f"signal {names.get(number, number)}{hint}"


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process in order, while the context lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """In a child on Linux: be sent SIGTERM when the parent has ended, for any reason."""
    assert PRCTL is not None
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
