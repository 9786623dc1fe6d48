"""The students' part of a step: what each sees, and its run through the backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from poa_plugin.backbones.base import CropBatch, ElasticBackbone
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.randomness import torch_generator
from poa_plugin.ssl.objective import Shard, Student

ROLES = ("intact", "elastic")


def make_shard(
    index: int, subnet: Subnet, batch: Mapping[str, Any], device: torch.device, masks_active: bool
) -> Shard:
    """Bring one shard's batch to the device.

    Args:
        index: of the shard within the step.
        subnet: its elastic student.
        batch: under DINOv2's names; see `POA.forward_backward`.
        device: of the model.
        masks_active: whether students see masked global crops in this step.
    """
    local = batch.get("collated_local_crops")
    if local is not None:
        local = local.to(device, non_blocking=True) if len(local) else None
    crops = batch["collated_global_crops"].to(device, non_blocking=True)
    masks = batch["collated_masks"].to(device) if masks_active else None
    patch_ids = torch.zeros(0, dtype=torch.long, device=device)
    weights = torch.zeros(0, device=device)
    if masks is not None:
        patch_ids = masks.flatten().nonzero().flatten()
        per_image = masks.sum(dim=-1, keepdim=True).clamp(min=1)
        weights = (1 / per_image).expand_as(masks)[masks]
    return Shard(
        index=index,
        subnet=subnet,
        global_crops=crops,
        local_crops=local,
        masks=masks,
        patch_ids=patch_ids,
        patch_weights=weights,
    )


def run_students(
    backbone: ElasticBackbone,
    intact: Subnet,
    shards: Sequence[Shard],
    roles: Sequence[str],
    seed: int,
    step: int,
) -> list[dict[str, Student]]:
    """Run the students of some roles on all crops in one walk; by role for each shard.

    Args:
        backbone: of the students.
        intact: the sub-network of the intact student; the elastic one's is its shard's.
        shards: of the step.
        roles: of `ROLES`.
        seed, step: what stochastic depth is drawn from, beside shard, role and kind of crop.
    """
    crop_batches = []
    for shard in shards:
        for role in roles:
            subnet = shard.subnet if role == "elastic" else intact
            for kind, crops in enumerate((shard.global_crops, shard.local_crops)):
                if crops is not None:
                    masks = shard.masks if kind == 0 else None
                    key = (seed, step, shard.index, ROLES.index(role), kind)
                    ids = shard.patch_ids if kind == 0 else shard.patch_ids[:0]
                    generator = torch_generator("drop_path", *key)
                    crop_batches.append(CropBatch(crops, subnet, masks, generator, ids))
    features = iter(backbone(crop_batches))
    return [{role: _student(shard, features) for role in roles} for shard in shards]


def _student(shard: Shard, features: Iterator[dict[str, Any]]) -> Student:
    """Gather what goes into the heads from the next crop batches' features."""
    out = next(features)
    cls = out["x_norm_clstoken"]
    local = cls[:0]
    if shard.local_crops is not None:
        local = next(features)["x_norm_clstoken"]
    patches = out["x_norm_patchtokens"]
    sizes = (len(cls), len(local), len(patches))
    return Student(cls, torch.cat([cls, local, patches]), sizes)
