"""Losses of 50 steps of a tiny recipe of each family, kept in a file: a change that moves them is seen.

`python -m tests.reference_losses` computes them and prints what moved; `--write` replaces the files, too.

What rounding alone does to them was measured with prototypes in chunks of 5 and joint students in place of
the recipe's, at its `optim.base_lr=0.004`. As `drift` counts it, no number of 50 steps moves by more than 1e-6
for ViT and 4e-6 for Swin, in float32. ResNet runs in float64, where 6e-12 is the most: in float32 its ReLUs
amplify rounding to 2e-1, and to 6e-3 at a twentieth of the learning rate, with fewer groups and larger crops.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from poa_plugin.config.load import default_config
from poa_plugin.crops import pixels
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.reading import open_images, read_shards
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step
from tests.conftest import FAMILIES

STEPS, TOLERANCE = 50, 1e-4
RECIPE = [
    "data.dataset=blobs",
    "train.shards=2",
    f"train.OFFICIAL_EPOCH_LENGTH={STEPS // 5}",
    "optim.epochs=5",
    "optim.warmup_epochs=1",
    "optim.base_lr=0.004",
]
DROP_PATH = {"vit": ["student.vit.drop_path_rate=0.2"], "swin": ["student.swin.drop_path_rate=0.2"]}

IN_FLOAT64 = ("resnet",)
"""Families whose ReLUs make too much of rounding for 50 steps in float32."""

Line = dict[str, Any]


def compute(family: str, *overrides: str) -> Iterator[Line]:
    """Yield a line for each step: its number, loss, loss terms, and norms of gradients.

    Args:
        family: whose recipe is run.
        overrides: of the recipe.
    """
    torch.set_num_threads(1)
    config = default_config([*FAMILIES[family], *RECIPE, *DROP_PATH.get(family, []), *overrides])
    dtype = torch.float64 if family in IN_FLOAT64 else torch.float32
    model = build_model(config).to(dtype).train()
    optimizer = build_optimizer(model.get_params_groups(), config)
    n_shards, schedules = config.train.shards, Schedules(config)
    shards = read_shards(config, open_images(config), model.mask_grid, 0, STEPS)
    for number in range(STEPS):
        subnets = model.sample_subnets(n_shards)
        batches = [cast_crops(shard, dtype) for shard in islice(shards, n_shards)]
        step = train_step(model, optimizer, batches, schedules(number), subnets)
        assert not step.non_finite
        terms, norms = ({k: float(v) for k, v in x.items()} for x in (step.terms, step.norms))
        yield {"step": number, "loss": sum(terms.values()), "terms": terms, "grad_norm": norms}


def drift(actual: Line, expected: Line) -> dict[str, float]:
    """Return by how much each number of a line differs, relative to its size.

    A number counts as at least a hundredth of the loss, as KoLeo's term passes through zero. One that is not
    finite, or that only one of the lines has, differs infinitely.
    """
    ours, theirs = flat(actual), flat(expected)
    least = abs(expected["loss"]) / 100
    drifts = {}
    for name in theirs | ours:
        a, b = ours.get(name, math.nan), theirs.get(name, math.nan)
        relative = abs(a - b) / max(abs(b), least)
        drifts[name] = relative if math.isfinite(relative) else math.inf
    return drifts


def flat(line: Line) -> dict[str, float]:
    """Return a line's numbers by name, such as `terms/koleo_intact`."""
    groups = {f"{group}/{k}": v for group in ("terms", "grad_norm") for k, v in line[group].items()}
    return {"step": line["step"], "loss": line["loss"], **groups}


def moved(actual: Sequence[Line], expected: Sequence[Line]) -> list[str]:
    """Return a sentence for each number that drifts beyond the tolerance, with its largest drift."""
    if len(actual) != len(expected):
        return [f"there are {len(actual)} steps in place of {len(expected)}"]
    largest: dict[str, tuple[float, int]] = {}
    for step, lines in enumerate(zip(actual, expected, strict=True)):
        for name, value in drift(*lines).items():
            largest[name] = max(largest.get(name, (0.0, 0)), (value, step))
    return [
        f"{name} moved by {value:.1e} at step {step}: "
        f"{flat(expected[step]).get(name)} -> {flat(actual[step]).get(name)}"
        for name, (value, step) in largest.items()
        if value > TOLERANCE
    ]


def read(family: str) -> list[Line]:
    """Return a family's reference losses."""
    return [json.loads(line) for line in path(family).read_text(encoding="utf-8").splitlines()]


def write(family: str, lines: Sequence[Line]) -> None:
    """Replace a family's reference losses."""
    path(family).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def path(family: str) -> Path:
    """Return the file of a family's reference losses."""
    return Path(__file__).with_name(f"{family}.jsonl")


def cast_crops(shard: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a shard's batch with its crops normalized in float32, then in a precision."""
    cpu = torch.device("cpu")
    return {k: pixels(x, cpu).to(dtype) if k.endswith("_crops") else x for k, x in shard.items()}
