"""The students' part of a step: their inputs, and their pass through the backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from poa_plugin.backbones.base import CropBatch, ElasticBackbone
from poa_plugin.crops import masked_patches, pixels
from poa_plugin.device import to_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.randomness import torch_generator
from poa_plugin.ssl.objective import Shard, Student

ROLES = ("intact", "elastic")


def make_shard(
    position: int,
    first: int,
    subnet: Subnet,
    batch: Mapping[str, Any],
    device: torch.device,
    masks_active: bool,
) -> Shard:
    """Bring one shard's batch to the device, without waiting for it.

    Args:
        position: of the shard among those of this process.
        first: index of this process's first shard within the step.
        subnet: its elastic student.
        batch: under DINOv2's names; see `POA.forward_backward`.
        device: of the model.
        masks_active: whether students see masked global crops in this step.
    """
    local = batch.get("collated_local_crops")
    if local is not None:
        local = pixels(local, device) if len(local) else None
    masks = batch["collated_masks"] if masks_active else None
    if masks is None:
        ids, weights = torch.zeros(0, dtype=torch.long), torch.zeros(0)
    elif "mask_indices_list" in batch and "masks_weight" in batch:
        ids, weights = batch["mask_indices_list"], batch["masks_weight"]
    else:
        ids, weights = masked_patches(masks)
    return Shard(
        position=position,
        index=first + position,
        subnet=subnet,
        global_crops=pixels(batch["collated_global_crops"], device),
        local_crops=local,
        masks=None if masks is None else to_device(masks, device),
        patch_ids=to_device(ids, device),
        patch_weights=to_device(weights, device),
    )


def run_students(
    backbone: ElasticBackbone,
    intact: Subnet,
    shard: Shard,
    roles: Sequence[str],
    seed: int,
    step: int,
) -> dict[str, Student]:
    """Run the students of some roles on all crops of a shard in one pass; by role.

    Args:
        backbone: of the students.
        intact: the sub-network of the intact student; the elastic one's is the shard's.
        shard: the batch.
        roles: of `ROLES`.
        seed, step: what stochastic depth is drawn from, beside shard, role and kind of crop.
    """
    crop_batches = []
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
    return {role: _student(shard, features) for role in roles}


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
