"""Teacher outputs with given logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poa_plugin.ssl.assignments import TeacherOutputs
from poa_plugin.ssl.centering import sinkhorn_knopp
from poa_plugin.ssl.prototypes import chunks

ONE_CHUNK = 1 << 20
"""The width of a chunk that holds all prototypes of any test."""


def with_logits(
    shards: Sequence[Tensor], temperature: float, width: int = ONE_CHUNK
) -> TeacherOutputs:
    """Return outputs whose logits are exactly these, (N_s, K) of each shard: prototypes are unit vectors."""
    size, dtype = shards[0].shape[1], shards[0].dtype
    rows = max(map(len, shards))
    return TeacherOutputs(
        shards, torch.eye(size, dtype=dtype), temperature, chunks(size, width), rows
    )


def balanced(
    logits: Tensor, temperature: float, iterations: int = 3, width: int = ONE_CHUNK
) -> Tensor:
    """Return Sinkhorn-Knopp's probabilities of (N, K) logits."""
    [assignments] = sinkhorn_knopp([with_logits([logits], temperature, width)], iterations)
    return assignments.all_of(0)
