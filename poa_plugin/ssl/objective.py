"""The objective: which loss terms there are, and how a step's outputs become its summands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from poa_plugin.config import Config
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.ssl import losses

Parts = dict[str, Tensor]
"""Summands of the loss by term; each is a vector over heads, or a scalar for KoLeo."""


@dataclass(frozen=True)
class Shard:
    """One shard's crops within a step, on the device, with the iBOT masks that are active.

    Shapes: `global_crops` (2 B, 3, g, g) and `local_crops` (V * B, 3, l, l), view-major; `masks`
    (2 B, N) bool; `patch_ids` (M,) of the masked patches in the flattened (2 B * N);
    `patch_weights` (M,), one over the number of masked patches in the patch's image.
    """

    index: int
    subnet: Subnet
    global_crops: Tensor
    local_crops: Tensor | None
    masks: Tensor | None
    patch_ids: Tensor
    patch_weights: Tensor


@dataclass(frozen=True)
class Targets:
    """The teacher's probabilities for one shard, by head: `cls` (2 B, K), `patches` (M, K)."""

    cls: list[Tensor]
    patches: list[Tensor]


@dataclass(frozen=True)
class Student:
    """What one student put out for one shard.

    `cls` (2 B, d) are its class tokens of the global crops; `tokens` (N, d) what goes into the heads:
    the global class tokens, the local class tokens and the masked patches, `sizes` of each.
    """

    cls: Tensor
    tokens: Tensor
    sizes: tuple[int, int, int]


def head_parts(
    config: Config,
    cls_targets: Tensor,
    patch_targets: Tensor,
    shard: Shard,
    sizes: tuple[int, int, int],
    logits: Sequence[Tensor],
) -> Parts:
    """Return one head's summands of one shard's loss (POA eq. 10, weighted as the recipe says).

    Args:
        config: a resolved configuration.
        cls_targets, patch_targets: (2 B, K) and (M, K), the teacher's probabilities.
        shard: the batch.
        sizes: rows of global class tokens, local class tokens and masked patches in the logits.
        logits: (N, K) of the intact student and, if there is one, of the elastic student.
    """
    dino, ibot, temp = config.dino, config.ibot, config.loss.student_temp
    on = cast(Mapping[str, bool], config.loss.terms)
    n_heads = len(dino.head_n_prototypes)
    shares = {"intact": dino.lambda_ie, "elastic": 1 - dino.lambda_ie}
    parts: Parts = {}
    split: list[tuple[Tensor, ...]] = []
    for (name, share), out in zip(shares.items(), logits, strict=False):
        split.append(losses.log_probabilities(out, temp).split(sizes))
        global_logp, local_logp, patch_logp = split[-1]
        if on[f"cross_view_{name}"]:
            weight = dino.loss_weight * share / n_heads
            local = local_logp if len(local_logp) else None
            found = losses.cross_view(cls_targets, global_logp, local, config.loss.normalisation)
            parts[f"cross_view_{name}_global"] = weight * found[0]
            parts[f"cross_view_{name}_local"] = weight * found[1]
        if on[f"masked_patch_{name}"] and shard.masks is not None:
            weight, n_images = ibot.loss_weight * share / n_heads, len(shard.masks)
            value = losses.masked_patch(patch_targets, patch_logp, shard.patch_weights, n_images)
            parts[f"masked_patch_{name}"] = weight * value
    if len(split) == 2 and on["same_view"]:
        intact, elastic = split
        for kind, target, logp in zip(("global", "local"), intact, elastic, strict=False):
            if len(logp):
                value = losses.same_view(target, logp)
                parts[f"same_view_{kind}"] = shares["elastic"] / n_heads * value
    return parts


def koleo_parts(config: Config, students: Sequence[Student]) -> Parts:
    """Return KoLeo's summands of one shard's loss: of both views of each student."""
    on, weight = cast(Mapping[str, bool], config.loss.terms), config.dino.koleo_loss_weight
    return {
        f"koleo_{name}": weight
        / len(students)
        * torch.stack([losses.koleo(view) for view in student.cls.chunk(2)]).sum()
        for name, student in zip(("intact", "elastic"), students, strict=False)
        if on[f"koleo_{name}"] and weight > 0
    }


def mean_over_shards(every: Sequence[Parts]) -> Parts:
    """Return the mean of the shards' summands, by term."""
    return {name: torch.stack([parts[name] for parts in every]).mean(0) for name in every[0]}
