"""The same experiment on 1, 2, 3 and 4 ranks, replicated and sharded.

Two ranks and a ViT are in the fast suite. `POA_RANKS=all` runs every case in every way on 2, 3 and 4 ranks.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks.experiments import SHARDS, Case, joined, run_all
from tests.ranks.launch import on_ranks

ALL = os.environ.get("POA_RANKS") == "all"
TARGETS_OF_THE_FIRST_STEP = "0/"
"""Later ones are of weights that gradients have moved, which are sums in another order."""

FAST = {
    "vit, iBOT from the second step on": Case("vit", masks="late"),
    "vit, masks empty in a few shards, float32": Case("vit", masks="empty", dtype=torch.float32),
}
SLOW = {
    "vit": Case("vit"),
    "vit, no masks, centering": Case("vit", ("train.centering=centering",), masks="off"),
    "vit, centering, chunks": Case(
        "vit", ("train.centering=centering", "train.prototype_chunk=7"), masks="empty"
    ),
    "swin": Case("swin", masks="empty"),
    "resnet": Case("resnet", masks="late"),
}
WAYS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "replicate": (("train.parallel=replicate",), None),
    "fsdp2": (("train.parallel=fsdp2",), None),
    "fsdp2, reduced after each shard, not resharded": (
        ("train.parallel=fsdp2", "train.reduce=shard", "train.reshard_after_forward=false"),
        None,
    ),
    "fsdp2, recomputed": (("train.parallel=fsdp2", "train.activation_checkpointing=true"), None),
    "fsdp2, compiled": (("train.parallel=fsdp2",), "aot_eager"),
}
COMPILED_CASES = ("vit", "vit, iBOT from the second step on")
IN_CI = {
    (3, "replicate"): tuple(SLOW),
    (3, "fsdp2"): tuple(SLOW),
    (4, "replicate"): ("resnet",),
    (4, "fsdp2"): ("swin",),
    (2, "fsdp2, reduced after each shard, not resharded"): ("vit", "resnet"),
    (2, "fsdp2, recomputed"): ("vit", "swin"),
    (2, "fsdp2, compiled"): COMPILED_CASES[:1],
}
"""The cases that CI runs of each way: on 3 ranks all, elsewhere what differs."""


@lru_cache
def results(world: int, way: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the results of cases by name; alone, both students run together where sharding makes them."""
    overrides, backend = WAYS[way]
    cases = {}
    for name in names:
        case = (FAST | SLOW)[name]
        more = (*overrides, *(("train.joint_students=true",) if way != "replicate" else ()))
        cases[name] = Case(
            case.family, (*case.overrides, *more), case.masks, dtype=case.dtype, backend=backend
        )
    of_ranks = on_ranks(world, run_all, cases, timeout_s=900)
    return {name: joined([of_rank[name] for of_rank in of_ranks]) for name in cases}


def largest_error(ours: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference between tensors, relative to each one's largest entry.

    A tensor counts as at least a millionth of the largest of all: key biases have no gradient but noise.
    """
    assert ours.keys() == expected.keys()
    assert [k for k in ours if ours[k] is None] == [k for k in expected if expected[k] is None]
    floating = {k: v for k, v in expected.items() if v is not None and v.is_floating_point()}
    scales = {k: float(v.abs().max()) for k, v in floating.items() if v.numel()}
    least = 1e-6 * max(scales.values())
    return max(
        float((ours[k] - floating[k]).abs().max()) / max(scale, least)
        for k, scale in scales.items()
    )


def check(world: int, way: str, names: tuple[str, ...]) -> None:
    alone, together = results(1, way, names), results(world, way, names)
    for name, ours in together.items():
        expected, in_float32 = alone[name], "float32" in name
        first = {
            k: v for k, v in ours["targets"].items() if k.startswith(TARGETS_OF_THE_FIRST_STEP)
        }
        assert len(first) >= SHARDS
        assert first.items() <= expected["targets"].items(), name
        assert ours["samples"] == expected["samples"], name
        for what in ("gradients", "weights"):
            error = largest_error(ours[what], expected[what])
            assert error < (1e-4 if in_float32 else 1e-6), (name, what, error)
        for terms, wanted in zip(ours["losses"], expected["losses"], strict=True):
            assert terms == pytest.approx(wanted, rel=1e-5)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["replicate", "fsdp2"])
def test_two_ranks(way: str) -> None:
    check(2, way, tuple(FAST))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")  # of the compiler's own
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_more_cases(world: int, way: str) -> None:
    names = COMPILED_CASES if "compiled" in way else tuple(SLOW)
    if not ALL:
        if (world, way) not in IN_CI:
            pytest.skip("POA_RANKS=all runs this one")
        names = IN_CI[world, way]
    check(world, way, names)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["replicate", "fsdp2"])
def test_scales_of_fp16_agree(way: str) -> None:
    """Under FSDP2 each rank sees the overflow of its own part of the gradients."""
    overrides = (*WAYS[way][0], "train.joint_students=true", "train.precision=fp16")
    cases = {scale: Case("vit", overrides, dtype=torch.float32, scale=scale) for scale in (4, 20)}
    of_ranks = on_ranks(2, run_all, cases, timeout_s=300)
    for result in of_ranks:
        assert result[4]["scale"] == 2**4
        assert result[4]["non_finite"] == [[], []]
        assert result[20]["scale"] == 2**18
        assert all(
            step == ["gradient of backbone", "gradient of dino_head"]
            for step in result[20]["non_finite"]
        )
    losses = [result[4]["losses"] for result in of_ranks]
    assert losses[0] == losses[1]


@lru_cache
def long_run(world: int, way: str, optimizer: str) -> dict[str, Any]:
    case = Case(
        "vit",
        (*WAYS[way][0], "train.joint_students=true", "train.batch_size_per_shard=1"),
        masks="empty",
        optimizer=optimizer,
        steps=20,
    )
    of_ranks = on_ranks(world, run_all, {"": case}, timeout_s=900)
    return joined([of_rank[""] for of_rank in of_ranks])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-6), ("adamw", 1e-5)])
@pytest.mark.parametrize(
    ("world", "way"),
    [
        (4, "fsdp2"),
        *([(2, "fsdp2"), (3, "fsdp2"), (2, "replicate"), (3, "replicate")] if ALL else []),
    ],
)
def test_weights_after_twenty_steps(world: int, way: str, optimizer: str, tolerance: float) -> None:
    """Adam makes steps of noise where there is no gradient, as in key biases: there is nothing to compare."""
    alone, together = long_run(1, "replicate", optimizer), long_run(world, way, optimizer)
    assert together["samples"] == alone["samples"]
    for name, value in alone["weights"].items():
        clear = is_clear(alone["gradients"].get(name.removeprefix("student.")), value)
        difference = (together["weights"][name] - value).abs()[clear]
        assert not difference.numel() or float(difference.max()) < tolerance, name


def is_clear(gradient: Tensor | None, value: Tensor) -> Tensor:
    """Return where a gradient is zero or far above the noise of float64."""
    if gradient is None:
        return torch.ones_like(value, dtype=torch.bool)
    return (gradient.abs() > 1e-12) | (gradient == 0)
