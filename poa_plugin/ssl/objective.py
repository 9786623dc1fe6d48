"""The objective: which loss terms there are, and how a step's outputs become its summands."""

from __future__ import annotations

from collections.abc import Mapping
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

    `cls` (2 B, d) are its class tokens of the global crops; `logits` has, by head, the global class
    tokens, the local class tokens and the masked patches, in this order.
    """

    cls: Tensor
    logits: list[Tensor]
    sizes: tuple[int, int, int]


def shard_parts(
    config: Config,
    targets: Targets,
    shard: Shard,
    intact: Student,
    elastic: Student | None = None,
) -> Parts:
    """Return one shard's summands of the loss (POA eq. 10, weighted as the recipe says)."""
    dino, ibot = config.dino, config.ibot
    on = cast(Mapping[str, bool], config.loss.terms)
    shares = {"intact": (intact, dino.lambda_ie)}
    if elastic is not None:
        shares["elastic"] = (elastic, 1 - dino.lambda_ie)
    n_heads = len(targets.cls)
    parts: Parts = {}
    log_probs = {
        name: _log_probs(student, config.loss.student_temp) for name, (student, _) in shares.items()
    }
    for name, (student, share) in shares.items():
        if on[f"cross_view_{name}"]:
            weight = dino.loss_weight * share / n_heads
            pairs = [
                losses.cross_view(target, *logp[:2], config.loss.normalisation)
                for target, logp in zip(targets.cls, log_probs[name], strict=True)
            ]
            parts[f"cross_view_{name}_global"] = weight * torch.stack([g for g, _ in pairs])
            parts[f"cross_view_{name}_local"] = weight * torch.stack([x for _, x in pairs])
        if on[f"masked_patch_{name}"] and shard.masks is not None:
            weight = ibot.loss_weight * share / n_heads
            values = [
                losses.masked_patch(target, logp[2], shard.patch_weights, len(shard.masks))
                for target, logp in zip(targets.patches, log_probs[name], strict=True)
            ]
            parts[f"masked_patch_{name}"] = weight * torch.stack(values)
        if on[f"koleo_{name}"] and dino.koleo_loss_weight > 0:
            spread = torch.stack([losses.koleo(view) for view in student.cls.chunk(2)]).sum()
            parts[f"koleo_{name}"] = dino.koleo_loss_weight / len(shares) * spread
    if elastic is not None and on["same_view"]:
        parts |= _same_view_parts(config, intact, log_probs["elastic"])
    return parts


def _same_view_parts(
    config: Config, intact: Student, log_probs: list[tuple[Tensor, Tensor | None, Tensor]]
) -> Parts:
    weight = (1 - config.dino.lambda_ie) / len(log_probs)
    values: dict[str, list[Tensor]] = {"same_view_global": [], "same_view_local": []}
    for logits, (global_logp, local_logp, _) in zip(intact.logits, log_probs, strict=True):
        views = [global_logp] if local_logp is None else [global_logp, local_logp]
        chunks = logits.split(intact.sizes)[: len(views)]
        found = losses.same_view(chunks, views, config.loss.student_temp)
        for name, value in zip(values, found, strict=False):
            values[name].append(value)
    return {name: weight * torch.stack(found) for name, found in values.items() if found}


def _log_probs(student: Student, temperature: float) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """Return, by head, the log probabilities of the global, local and masked-patch rows."""
    every = []
    for logits in student.logits:
        log_probs = losses.log_probabilities(logits, temperature)
        global_logp, local_logp, patch_logp = log_probs.split(student.sizes)
        every.append((global_logp, local_logp if len(local_logp) else None, patch_logp))
    return every
