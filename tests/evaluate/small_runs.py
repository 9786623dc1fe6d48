"""Runs of one step on a few pictures, for tests of what comes after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from poa_plugin.config.load import default_config
from poa_plugin.evaluate.run import EvaluationOptions, evaluate_run
from poa_plugin.runs.entries import Series, series_of
from poa_plugin.runs.results import Row
from poa_plugin.runs.run import Run
from poa_plugin.train.loop import train
from tests.conftest import FAMILIES

N_TRAIN, N_TEST = 6, 4
"""Pictures of each of the two classes."""


def write_pictures(folder: Path, seed: int = 0, size: int = 12) -> Path:
    """Write pictures of two classes for training and test, other ones for another seed."""
    for split, count in (("train", N_TRAIN), ("val", N_TEST)):
        for kind in range(2):
            for number in range(count):
                file = folder / split / f"kind{kind}/{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                draw = np.random.default_rng([seed, kind, number, len(split)])
                levels = draw.integers(0, 256, (size, size, 3))
                Image.fromarray((levels // (1 + kind)).astype(np.uint8)).save(file)
    return folder


def trained_run(root: Path, *words: str, family: str = "vit", crop: int = 8) -> Path:
    """Train a small network for a step; pictures lie in `root/images`, the run in `root/run`."""
    settings = [
        "data.dataset=image_folder",
        f"data.path={write_pictures(root / 'images')}",
        f"output_dir={root / 'run'}",
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        "train.OFFICIAL_EPOCH_LENGTH=1",
        "train.threads=1",
        f"evaluation.crop_size={crop}",
        f"evaluation.resize_size={crop}",
    ]
    assert train(default_config([*FAMILIES[family], *settings, *words])).finished
    return root / "run"


def evaluated(
    run: Run, names: Sequence[str] = ("all",), ks: Sequence[int] = (1,), **options: Any
) -> list[Row]:
    """Evaluate networks as `poa eval knn` does; return their rows."""
    settings = {"ks": ks, **options.pop("settings", {})}
    return list(evaluate_run(run, EvaluationOptions(names, settings=settings, **options)).rows)


def swept(run: Run, options: EvaluationOptions) -> Series:
    """Evaluate networks as `poa sweep` does."""
    return series_of(evaluate_run(run, options))
