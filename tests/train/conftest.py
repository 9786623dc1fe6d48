"""Runs of seconds that the tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poa_plugin.config import Config
from poa_plugin.registry import DATASETS

Make = Callable[..., Config]


class Blobs:
    """Twelve images of coloured noise."""

    classes = ["a", "b"]  # noqa: RUF012

    def __init__(self, path: str | None, split: str, image_size: int | None) -> None:
        self.labels = [i % 2 for i in range(12)]

    def __len__(self) -> int:
        return 12

    def image(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 60, 60), generator=generator, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return str(index)


if "blobs" not in DATASETS:
    DATASETS.register_as("blobs")(Blobs)


@pytest.fixture
def make(small_config: Make, tmp_path: Path) -> Make:
    def config(*words: str) -> Config:
        return small_config(
            "data.dataset=blobs",
            "train.OFFICIAL_EPOCH_LENGTH=3",
            "train.checkpoint_period=2",
            "train.log_period=2",
            "optim.epochs=2",
            "optim.warmup_epochs=1",
            "student.vit.drop_path_rate=0.2",
            f"output_dir={tmp_path / 'run'}",
            *words,
        )

    return config
