"""Signals that ask a training to end: it saves after the step that it is in."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from poa_plugin import ranks


class StopRequest:
    """Whether a signal has asked the run to end.

    Attributes:
        signal: the first signal that has, if one has.
        ended_by: the signal that the run ends for, once it does.
        training: whether steps are being taken; until then there is nothing to save, and a signal ends
            the process at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.ended_by: int | None = None
        self.training = False

    def ends(self, agreed: int) -> bool:
        """Return whether the run is to end after this step; on all ranks alike.

        Args:
            agreed: the signal that all ranks know of, 0 for none. Of several ranks, one that has got another
                since waits for the next step; a process by itself heeds it at once.
        """
        if ranks.world() > 1:
            self.ended_by = agreed or None
        else:
            self.ended_by = self.signal
        return self.ended_by is not None

    @property
    def requested(self) -> bool:
        """Whether a signal has asked the run to end."""
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a first signal; a second Ctrl-C interrupts at once, and so does any before the first step.

        A launcher passes on to its ranks the Ctrl-C that they got themselves, so there a second one is none.
        """
        is_second = self.requested and ranks.world() == 1
        if number == signal.SIGINT and (is_second or not self.training):
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        if not self.training:
            _say(f"poa: {name}: ended before the first step, nothing was trained", sys.stderr)
            raise SystemExit(128 + number)
        if not self.requested:
            self.signal = number
            _say(f"\n{name}: saving after this step ...", sys.stdout)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn Ctrl-C, SIGTERM, SIGHUP and SIGUSR2 into a request to end after the step, while the context lasts.

    SIGUSR2 is what SLURM sends before the time of a job is over, if it is asked to (`--signal=USR2@120`).
    SIGHUP that is ignored, as under `nohup`, stays ignored. In a thread other than the main one, signals
    are not handled.
    """
    stop = StopRequest()
    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        handled = []
    previous: dict[int, Any] = {number: signal.signal(number, stop) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(text: str, stream: Any) -> None:
    """Print from a signal's handler, which may have interrupted a print, or come as the terminal closed."""
    with suppress(OSError, RuntimeError, ValueError):
        print(text, file=stream, flush=True)
