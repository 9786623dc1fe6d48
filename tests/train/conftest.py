"""Runs of seconds that the tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from poa_plugin.config.schema import Config

Make = Callable[..., Config]


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
