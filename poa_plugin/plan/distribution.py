"""How a model is distributed over ranks: bytes of weights and gradients that a rank holds and sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from poa_plugin.config.schema import Config
from poa_plugin.ssl import POA
from poa_plugin.ssl.prototypes import masked_rows
from poa_plugin.train.gradients import buckets
from poa_plugin.train.parallel import sharded_units

SIZE = 4
"""Bytes of a weight, float32."""


class Unit(NamedTuple):
    """Parameters that FSDP2 gathers and reduces together: their shapes."""

    shapes: tuple[torch.Size, ...]

    def shard(self, ranks: int) -> int:
        """Return the bytes of the largest shard, rank 0's: rows are divided, and a single row is not."""
        return SIZE * sum(
            -(-shape[0] // ranks) * shape[1:].numel() if shape else 1 for shape in self.shapes
        )

    def whole(self, ranks: int) -> int:
        """Return the bytes once gathered, padded to equal shards."""
        return ranks * self.shard(ranks)


@dataclass(frozen=True)
class Distribution:
    """Bytes of a rank.

    Attributes:
        weights: of one branch, held all the time.
        moments: AdamW's two.
        gathered: weights that are whole while students run, and buffers they are gathered into.
        teacher_gathered: the same, while the teacher runs.
        gradients: at the most while students run; None: those of the traced shard.
        gradients_at_step: when the optimizer steps, and the buffer of their exchange.
        traffic: bytes that a rank sends in a step, by what they are for.
    """

    weights: int
    moments: int
    gathered: int
    teacher_gathered: int
    gradients: int | None
    gradients_at_step: int
    traffic: dict[str, int]


def units_of(student: nn.ModuleDict) -> list[list[Unit]]:
    """Return the units of backbone and heads: of each, its blocks, and last what else it has."""
    seen: set[int] = set()
    roots = []
    for modules in sharded_units(student):
        units = []
        for module in modules:
            new = {id(p): p.shape for p in module.parameters() if id(p) not in seen}
            seen |= set(new)
            units.append(Unit(tuple(new.values())))
        roots.append(units)
    return roots


def replicated(model: POA, ranks: int, shards: int) -> Distribution:
    """Return what a rank has that holds all of a model.

    Args:
        model: on any device.
        ranks: processes; 1 is training in one process.
        shards: of a step that a rank runs.
    """
    student = list(model.student.parameters())
    trained = sum(p.nbytes for p in student if p.requires_grad)
    bucket = max(sum(p.nbytes for p in part) for part in buckets(student)) if ranks > 1 else 0
    sent = int(2 * trained * (ranks - 1) / ranks)
    return Distribution(
        weights=sum(p.nbytes for p in student),
        moments=2 * trained,
        gathered=0,
        teacher_gathered=0,
        gradients=trained if shards > 1 else None,
        gradients_at_step=trained + bucket,
        traffic={"gradients": sent} if ranks > 1 else {},
    )


def sharded(model: POA, ranks: int, shards: int) -> Distribution:
    """Return what a rank has of a model that FSDP2 shards.

    Args:
        model: on any device.
        ranks: processes.
        shards: of a step that a rank runs.
    """
    train, roots = model.config.train, units_of(model.student)
    units = [unit for root in roots for unit in root]
    held, whole = sum(unit.shard(ranks) for unit in units), sum(unit.whole(ranks) for unit in units)
    largest = max(unit.whole(ranks) for unit in units)
    kept = not train.reshard_after_forward
    running = max(_running(root, ranks) for root in roots)
    # The teacher's, and the students' forward and backward.
    gathers = 2 + train.reshard_after_forward
    trained = sum(p.nbytes for p in model.student.parameters() if p.requires_grad)
    whole_gradients = train.reduce == "step" and shards > 1
    reductions = shards if train.reduce == "shard" else 1
    sent_of_whole = whole * (ranks - 1) // ranks
    return Distribution(
        weights=held,
        moments=2 * held,
        gathered=_all(roots, ranks) if kept else running,
        teacher_gathered=running,
        gradients=(trained + largest) if whole_gradients else held + running,
        gradients_at_step=held,
        traffic={
            "gradients": reductions * sent_of_whole,
            "weights": shards * gathers * sent_of_whole,
        },
    )


def _running(root: Sequence[Unit], ranks: int) -> int:
    """Return the most bytes of a backbone or of heads that are whole at once in a pass, buffers included.

    What no block has stays gathered while the blocks run: one runs, and the next is on its way.
    """
    *blocks, own = (unit.whole(ranks) for unit in root)
    return own + max([own, *(2 * block for block in blocks)])


def _all(roots: Sequence[Sequence[Unit]], ranks: int) -> int:
    """Return the most bytes that are whole at once if all that has run stays so, buffers included."""
    total = most = 0
    for *blocks, own in roots:
        for unit in (own, *blocks):
            total += unit.whole(ranks)
            most = max(most, total + unit.whole(ranks))
    return most


def other_traffic(model: POA, config: Config, ranks: int) -> dict[str, int]:
    """Return the bytes that a rank sends in a step for targets and agreement: (N - 1) / N of what is joined."""
    dino, shards = config.dino, config.train.shards
    others = (ranks - 1) / ranks
    kinds = 2 if masked_rows(config, model.mask_grid) else 1
    traffic = {}
    if config.train.centering == "sinkhorn_knopp":
        log_sums = SIZE * shards * kinds * sum(dino.head_n_prototypes)
        traffic["Sinkhorn-Knopp"] = int(SINKHORN_KNOPP_GATHERS * log_sums * others)
    else:
        means = len(dino.head_n_prototypes) * dino.head_bottleneck_dim + 1
        traffic["centers"] = int(SIZE * shards * kinds * means * others)
    flags = 2 * len(list(model.student.parameters()))  # a byte each, all-reduced
    traffic["agreement"] = int((flags + 8 * ranks * AGREED_NUMBERS) * others)
    return traffic


SINKHORN_KNOPP_GATHERS = 3
"""One an iteration, of each shard's log-sums, (shards, K) for every head and kind of tokens."""

AGREED_NUMBERS = 30
"""Loss terms in all and by head, norms and requests, float64 (`poa_plugin.train.agreement`): about so many."""
