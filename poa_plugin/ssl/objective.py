"""The objective: which loss terms there are, and how a step's outputs become its summands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from poa_plugin.config.schema import Config
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
    logits: Mapping[str, Tensor],
    intact: Tensor | None = None,
) -> Parts:
    """Return one head's summands of one shard's loss (POA eq. 10, weighted as the recipe says).

    Args:
        config: a resolved configuration.
        cls_targets, patch_targets: (2 B, K) and (M, K), the teacher's probabilities.
        shard: the batch.
        sizes: rows of global class tokens, local class tokens and masked patches in the logits.
        logits: (N, K) of one student or both, by role.
        intact: (N, K) logits of the intact student where it is not among them, class tokens at least.
    """
    dino, ibot, temp = config.dino, config.ibot, config.loss.student_temp
    on = cast(Mapping[str, bool], config.loss.terms)
    n_heads = len(dino.head_n_prototypes)
    shares = {"intact": dino.lambda_ie, "elastic": 1 - dino.lambda_ie}
    parts: Parts = {}
    log_probs = {role: losses.log_probabilities(out, temp) for role, out in logits.items()}
    for role, logp in log_probs.items():
        global_logp, local_logp, patch_logp = logp.split(sizes)
        if on[f"cross_view_{role}"]:
            weight = dino.loss_weight * shares[role] / n_heads
            local = local_logp if len(local_logp) else None
            found = losses.cross_view(cls_targets, global_logp, local, config.loss.normalization)
            parts[f"cross_view_{role}_global"] = weight * found[0]
            parts[f"cross_view_{role}_local"] = weight * found[1]
        if on[f"masked_patch_{role}"] and shard.masks is not None:
            weight, n_images = ibot.loss_weight * shares[role] / n_heads, len(shard.masks)
            value = losses.masked_patch(patch_targets, patch_logp, shard.patch_weights, n_images)
            parts[f"masked_patch_{role}"] = weight * value
    if "elastic" in log_probs and on["same_view"]:
        if intact is not None:
            log_probs["intact"] = losses.log_probabilities(intact, temp)
        start = 0
        for kind, size in zip(("global", "local"), sizes, strict=False):
            rows = slice(start, start + size)
            if size:
                value = losses.same_view(log_probs["intact"][rows], log_probs["elastic"][rows])
                parts[f"same_view_{kind}"] = shares["elastic"] / n_heads * value
            start += size
    return parts


def koleo_parts(config: Config, students: Mapping[str, Student], n_students: int) -> Parts:
    """Return KoLeo's summands of one shard's loss: of both views of each student, by role.

    Args:
        config: a resolved configuration.
        students: one student or both.
        n_students: how many share the weight.
    """
    on, weight = cast(Mapping[str, bool], config.loss.terms), config.dino.koleo_loss_weight
    return {
        f"koleo_{role}": weight
        / n_students
        * torch.stack([losses.koleo(view) for view in student.cls.chunk(2)]).sum()
        for role, student in students.items()
        if on[f"koleo_{role}"] and weight > 0
    }


def trains_elastic_student(config: Config) -> bool:
    """Tell whether a recipe trains elastic students: one of their loss terms is on and has a weight."""
    dino, on = config.dino, config.loss.terms
    share = 1 - dino.lambda_ie
    return bool(
        (on.cross_view_elastic and dino.loss_weight * share > 0)
        or (on.same_view and share > 0)
        or (on.masked_patch_elastic and config.ibot.loss_weight * share > 0)
        or (on.koleo_elastic and dino.koleo_loss_weight > 0)
    )


def mean_over_shards(every: Sequence[Parts]) -> Parts:
    """Return the mean of the shards' summands, by term."""
    return {name: torch.stack([parts[name] for parts in every]).mean(0) for name in every[0]}
