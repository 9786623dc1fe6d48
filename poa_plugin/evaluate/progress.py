"""How far a long evaluation is: a bar at a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PERIOD = 30.0
"""Seconds between plain lines."""


class ProgressBar:
    """A bar on stderr, used as a context.

    Args:
        total: of the amounts that `advance` gets.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.text = total, 0, ""
        self._latest = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            text = TextColumn("{task.description}")
            self._bar = Progress(*columns, text, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=total)

    def __enter__(self) -> ProgressBar:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Say what is being done now."""
        self.text = text
        self.advance(0)

    def advance(self, amount: int) -> None:
        """Say that so much more is done."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=amount, description=self.text)
        elif time.monotonic() - self._latest >= PERIOD:
            self._latest = time.monotonic()
            print(f"{self.done / self.total:.0%}: {self.text}", file=sys.stderr, flush=True)
