"""The same experiment on 1, 2, 3 and 4 ranks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from tests.ranks.experiments import Case, joined, run_all
from tests.ranks.launch import on_ranks

FSDP2 = ("train.parallel=fsdp2",)
REPLICATE = ("train.parallel=replicate",)
JOINT = ("train.joint_students=true",)


def largest_error(ours: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference between tensors, relative to each one's largest entry.

    A tensor counts as at least 1e-9 of the largest of all: key biases have no gradient but noise.
    """
    assert ours.keys() == expected.keys()
    assert [k for k in ours if ours[k] is None] == [k for k in expected if expected[k] is None]
    floating = {k: v for k, v in expected.items() if v is not None and v.is_floating_point()}
    scales = {k: float(v.abs().max()) for k, v in floating.items() if v.numel()}
    least = 1e-9 * max(scales.values())
    return max(
        float((ours[k] - floating[k]).abs().max()) / max(scale, least)
        for k, scale in scales.items()
    )


CASES = {
    "vit": Case("vit"),
    "vit, masks empty in a few shards": Case("vit", masks="empty"),
    "vit, iBOT from the second step on": Case("vit", masks="late"),
    "vit, no masks, centering": Case("vit", ("train.centering=centering",), masks="off"),
    "vit, centering, chunks": Case(
        "vit", ("train.centering=centering", "train.prototype_chunk=7"), masks="empty"
    ),
    "swin": Case("swin", masks="empty"),
    "resnet": Case("resnet", masks="empty"),
    "float32": Case("vit", dtype=torch.float32, masks="empty"),
}
WAYS = {
    "replicate": REPLICATE,
    "fsdp2": FSDP2,
}


@lru_cache
def results(world: int, way: str) -> dict[str, dict[str, Any]]:
    cases = {
        name: Case(
            case.family,
            (*case.overrides, *WAYS[way], *(JOINT if way != "replicate" else ())),
            case.masks,
            dtype=case.dtype,
        )
        for name, case in CASES.items()
    }
    of_ranks = on_ranks(world, run_all, cases)
    return {name: joined([of_rank[name] for of_rank in of_ranks]) for name in cases}


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks(way: str) -> None:
    alone, together = results(1, way), results(2, way)
    for name, ours in together.items():
        expected = alone[name]
        assert ours["targets"] == expected["targets"], name
        assert ours["samples"] == expected["samples"], name
        tolerance = 1e-6 if name != "float32" else 1e-4
        assert largest_error(ours["gradients"], expected["gradients"]) < tolerance, name
        assert largest_error(ours["weights"], expected["weights"]) < tolerance, name
