"""Crop batches of one forward pass: grouped by sub-network, and sharing stems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from poa_plugin.backbones.base import CropBatch
from poa_plugin.elastic import slicing
from poa_plugin.elastic.subnet import Subnet


def by_subnet(crop_batches: Sequence[CropBatch]) -> dict[Subnet, list[int]]:
    """Return the indices of the crop batches of each sub-network, in their order."""
    members: dict[Subnet, list[int]] = {}
    for i, crop_batch in enumerate(crop_batches):
        members.setdefault(crop_batch.subnet, []).append(i)
    return members


def run_where(
    block: Callable[..., list[Any]],
    states: Sequence[Any],
    runs: Sequence[bool],
    *extras: Sequence[Any],
) -> list[Any]:
    """Run a block on the states of the sub-networks that have it; the others' are passed through.

    Args:
        block: a `MultiInputBlock` module, called once.
        states: of the sub-networks.
        runs: for each, whether it has the block.
        extras: lists with an entry for each sub-network, see `MultiInputBlock`.
    """
    inputs = [x if active else None for x, active in zip(states, runs, strict=True)]
    outputs = block(inputs, *extras)
    return [x if y is None else y for x, y in zip(states, outputs, strict=True)]


def shared_stem(
    crop_batches: Sequence[CropBatch],
    stem: Callable[[Tensor, Tensor | None, int], Tensor],
    width: Callable[[Subnet], int],
    dim: int = -1,
) -> list[Tensor]:
    """Run a stem once for each distinct pair of images and masks, at the widest width among them.

    Args:
        crop_batches: of a forward pass.
        stem: maps images, masks and a width to tokens or maps of that width.
        width: of a sub-network's stem.
        dim: dimension of the channels.

    Returns:
        The tokens or maps of each crop batch, at its sub-network's width.
    """
    keys = [(id(crop_batch.images), id(crop_batch.masks)) for crop_batch in crop_batches]
    widest: dict[tuple[int, int], int] = {}
    for key, crop_batch in zip(keys, crop_batches, strict=True):
        widest[key] = max(widest.get(key, 0), width(crop_batch.subnet))
    stems: dict[tuple[int, int], Tensor] = {}
    for key, crop_batch in zip(keys, crop_batches, strict=True):
        if key not in stems:
            stems[key] = stem(crop_batch.images, crop_batch.masks, widest[key])
    return [
        slicing.leading(stems[key], width(crop_batch.subnet), dim)
        for key, crop_batch in zip(keys, crop_batches, strict=True)
    ]
