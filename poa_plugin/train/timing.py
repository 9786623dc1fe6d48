"""Where the time of a step goes: waiting for its batch, and the step itself."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Times(NamedTuple):
    """Seconds: that a step waited for its batch, and that it then took."""

    data: float
    step: float


class TimedBatches(Generic[T]):
    """An iterator that knows how long its last item was waited for, and how long ago that was."""

    def __init__(self, batches: Iterable[T]) -> None:
        self._batches = iter(batches)
        self._waited, self._given = 0.0, time.perf_counter()

    def __iter__(self) -> TimedBatches[T]:
        return self

    def __next__(self) -> T:
        asked = time.perf_counter()
        batch = next(self._batches)
        self._given = time.perf_counter()
        self._waited = self._given - asked
        return batch

    def times(self) -> Times:
        """Return how long the last batch was waited for, and how long ago it came."""
        return Times(self._waited, time.perf_counter() - self._given)
