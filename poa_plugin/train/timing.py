"""Where the time of a step goes: waiting for its images, and the step itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from poa_plugin.data import ShardBatch
from poa_plugin.data.faults import BadImageNote
from poa_plugin.train.heartbeat import Heartbeat


class Times(NamedTuple):
    """Seconds that a step waited for its images, and seconds of everything else in it."""

    data: float
    step: float


class StepShards:
    """The batches of a step's shards, each read when it is needed.

    Args:
        shards: of this process, of this step and those after it.
        number: of shards of a step.
        life: is told what the process does.
        step: the number of the step.

    Attributes:
        image_ids: of the shards that were taken.
        bad_images: those of them that were replaced by others.
    """

    def __init__(
        self,
        shards: Iterator[ShardBatch],
        number: int,
        life: Heartbeat | None = None,
        step: int = 0,
    ) -> None:
        self._life, self._step = life or Heartbeat(), step
        self._shards = islice(shards, number)
        self._waited, self._began = 0.0, time.perf_counter()
        self.image_ids: list[list[int]] = []
        self.bad_images: list[BadImageNote] = []

    def __iter__(self) -> StepShards:
        return self

    def __next__(self) -> ShardBatch:
        started = time.perf_counter()
        self._life.enter("reading images", self._step)
        batch = next(self._shards)
        self._life.enter("computing", self._step)
        self._waited += time.perf_counter() - started
        self.image_ids.append(batch["image_ids"])
        self.bad_images += batch["bad_images"]
        return batch

    def times(self) -> Times:
        """Return how long shards were waited for so far, and the rest of the time since the step began."""
        return Times(self._waited, time.perf_counter() - self._began - self._waited)
