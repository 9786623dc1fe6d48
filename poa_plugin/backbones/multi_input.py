"""What the streams of a walk have in common: sub-networks, and stems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from poa_plugin.backbones.base import Stream
from poa_plugin.elastic import slicing
from poa_plugin.elastic.subnet import Subnet


def by_subnet(streams: Sequence[Stream]) -> dict[Subnet, list[int]]:
    """Return which streams each sub-network runs, in their order."""
    members: dict[Subnet, list[int]] = {}
    for i, stream in enumerate(streams):
        members.setdefault(stream.subnet, []).append(i)
    return members


def run_where(
    block: Callable[..., list[Any]],
    states: Sequence[Any],
    on: Sequence[bool],
    *extras: Sequence[Any],
) -> list[Any]:
    """Run a block on the states of the sub-networks that keep it; the others' stay as they are.

    Args:
        block: a `Lockstep` module, called once.
        states: of the sub-networks.
        on: for each, whether it keeps the block.
        extras: lists with an entry for each, see `Lockstep`.
    """
    given = [x if keeps else None for x, keeps in zip(states, on, strict=True)]
    ran = block(given, *extras)
    return [x if y is None else y for x, y in zip(states, ran, strict=True)]


def shared_stem(
    streams: Sequence[Stream],
    stem: Callable[[Tensor, Tensor | None, int], Tensor],
    width: Callable[[Subnet], int],
    dim: int = -1,
) -> list[Tensor]:
    """Run a stem once for each distinct pair of images and masks, at the widest width asked.

    Args:
        streams: of a walk.
        stem: maps images, masks and a width to tokens or maps of that width.
        width: of a sub-network's stem.
        dim: along which the width lies.

    Returns:
        The tokens or maps of each stream, at its own width.
    """
    keys = [(id(stream.images), id(stream.masks)) for stream in streams]
    widest: dict[tuple[int, int], int] = {}
    for key, stream in zip(keys, streams, strict=True):
        widest[key] = max(widest.get(key, 0), width(stream.subnet))
    stems: dict[tuple[int, int], Tensor] = {}
    for key, stream in zip(keys, streams, strict=True):
        if key not in stems:
            stems[key] = stem(stream.images, stream.masks, widest[key])
    return [
        slicing.leading(stems[key], width(stream.subnet), dim)
        for key, stream in zip(keys, streams, strict=True)
    ]
