"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch

from poa_plugin.data import ShardBatch
from poa_plugin.registry import DATASETS
from poa_plugin.train.loop import train
from poa_plugin.train.timing import StepShards
from tests.conftest import Blobs, Make
from tests.train.test_loop import lines


def test_waiting_and_working_are_told_apart() -> None:
    """Two steps of two shards: the first step waits, the second one works."""

    def slow() -> Iterator[ShardBatch]:
        for number, seconds in enumerate((0.1, 0.1, 0.0, 0.0)):
            time.sleep(seconds)
            yield cast(ShardBatch, {"image_ids": [number], "bad_images": []})

    all_shards, times, images = slow(), [], []
    for step in range(2):
        shards = StepShards(all_shards, 2)
        for _ in shards:
            time.sleep(0.1 * step)
        times.append(shards.times())
        images.append(shards.image_ids)
    assert images == [[[0], [1]], [[2], [3]]]
    assert times[0].data >= 0.2
    assert times[1].step >= 0.2
    assert times[0].step < times[1].step
    assert times[1].data < times[0].data


def test_slow_images_show(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Blobs):
        def image(self, index: int) -> torch.Tensor:
            time.sleep(0.1)
            return super().image(index)

    monkeypatch.setitem(DATASETS._obj_map, "blobs", Slow)
    train(make("train.loggers=[]", "train.log_period=1"))
    for line in lines(tmp_path / "run"):
        assert line["data_seconds"] >= 3 * 0.1
        assert line["step_seconds"] > 0
