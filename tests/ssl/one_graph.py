"""A step's loss with all shards in one graph and every logit in memory, as a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.base import CropBatch
from poa_plugin.elastic import Subnet
from poa_plugin.randomness import torch_generator
from poa_plugin.ssl import POA, losses
from poa_plugin.ssl.students import ROLES

Batches = Sequence[Mapping[str, Any]]


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    log_q = losses.at_least_float32(logits) / temperature
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, dim=0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return log_q.exp()


@torch.no_grad()
def targets(model: POA, batches: Batches, temperature: float) -> list[list[Tensor]]:
    """Return, for each head, the probabilities of all class tokens and of all masked patches."""
    cls, patches = [], []
    for batch in batches:
        out = model.teacher["backbone"](batch["collated_global_crops"])
        cls.append(out["x_norm_clstoken"])
        patches.append(out["x_norm_patchtokens"][batch["collated_masks"]])
    logits = model.teacher["dino_head"]([torch.cat(cls), torch.cat(patches)])

    def probabilities(head: int, kind: int, x: Tensor) -> Tensor:
        if model.config.train.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(x, temperature) if len(x) else x
        balanced = (model.cls_targets, model.patch_targets)[kind]
        return torch.softmax(
            (losses.at_least_float32(x) - balanced.get_buffer(f"center_{head}")) / temperature,
            dim=-1,
        )

    return [
        [probabilities(head, kind, x) for kind, x in enumerate(kinds)]
        for head, kinds in enumerate(zip(*logits, strict=True))
    ]


def loss_terms(
    model: POA, batches: Batches, temperature: float, subnets: Sequence[Subnet]
) -> dict[str, Tensor]:
    """Return the terms of `POA.loss_terms`; iBOT's and the elastic terms have to be on."""
    config, n_heads = model.config, len(model.config.dino.head_n_prototypes)
    weights = {"intact": config.dino.lambda_ie, "elastic": 1 - config.dino.lambda_ie}
    probabilities = targets(model, batches, temperature)
    terms: dict[str, list[Tensor]] = {}
    cls_at, patch_at = 0, 0
    for index, (batch, subnet) in enumerate(zip(batches, subnets, strict=True)):
        crops, masks = batch["collated_global_crops"], batch["collated_masks"]
        n_cls, n_patches = len(crops), int(masks.sum())
        outputs = {}
        for number, role in enumerate(ROLES):
            net = subnet if role == "elastic" else model.space.intact
            crop_batches = [
                CropBatch(x, net, masks if kind == 0 else None, generator)
                for kind, x in enumerate((crops, batch["collated_local_crops"]))
                for generator in [
                    torch_generator(
                        "drop_path", config.train.seed, model.steps_taken, index, number, kind
                    )
                ]
            ]
            of_global, of_local = model.student["backbone"](crop_batches)
            cls = of_global["x_norm_clstoken"]
            tokens = [
                cls,
                of_local["x_norm_clstoken"],
                of_global["x_norm_patchtokens"][masks],
            ]
            outputs[role] = model.student["dino_head"](tokens)
            koleo = sum(losses.koleo(view) for view in cls.chunk(2))
            terms.setdefault(f"koleo_{role}", []).append(config.dino.koleo_loss_weight / 2 * koleo)
        for head in range(n_heads):
            q_cls, q_patches = probabilities[head]
            q_cls, q_patches = (
                q_cls[cls_at : cls_at + n_cls],
                q_patches[patch_at : patch_at + n_patches],
            )
            logp = {
                role: [
                    losses.log_probabilities(x[head], config.loss.student_temp)
                    for x in outputs[role]
                ]
                for role in ROLES
            }
            for role, (of_global, of_local, of_patches) in logp.items():
                weight = weights[role] / n_heads
                in_global, in_local = losses.cross_view(
                    q_cls, of_global, of_local, config.loss.normalization
                )
                per_image = masks.sum(1, keepdim=True).clamp(min=1).expand_as(masks)[masks]
                patch = losses.masked_patch(q_patches, of_patches, 1 / per_image, len(masks))
                values = {
                    f"cross_view_{role}_global": config.dino.loss_weight * weight * in_global,
                    f"cross_view_{role}_local": config.dino.loss_weight * weight * in_local,
                    f"masked_patch_{role}": config.ibot.loss_weight * weight * patch,
                }
                for name, value in values.items():
                    terms.setdefault(name, []).append(value)
            for kind, name in enumerate(("same_view_global", "same_view_local")):
                value = losses.same_view(logp["intact"][kind], logp["elastic"][kind])
                terms.setdefault(name, []).append(weights["elastic"] / n_heads * value)
        cls_at, patch_at = cls_at + n_cls, patch_at + n_patches
    return {name: torch.stack(values).sum() / len(batches) for name, values in terms.items()}
