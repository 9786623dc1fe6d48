"""The teacher's part of a step: what the students' predictions are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from poa_plugin.backbones.base import CropBatch
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.ssl.centering import Centering, SinkhornKnopp
from poa_plugin.ssl.objective import Shard, Targets


@torch.no_grad()
def teacher_targets(
    teacher: nn.ModuleDict,
    intact: Subnet,
    shards: Sequence[Shard],
    cls_targets: Centering | SinkhornKnopp,
    patch_targets: Centering | SinkhornKnopp | None,
    temperature: float,
) -> list[Targets]:
    """Return the teacher's probabilities for each shard; Sinkhorn-Knopp sees the outputs of all of them.

    Args:
        teacher: `backbone` and `dino_head`.
        intact: the sub-network that the teacher runs.
        shards: of the step.
        cls_targets: makes probabilities of the class tokens' logits.
        patch_targets: of the masked patches' logits; None where no patches are masked in this step.
        temperature: of the teacher.
    """
    crop_batches = [
        CropBatch(shard.global_crops, intact, patch_ids=shard.patch_ids) for shard in shards
    ]
    features = teacher["backbone"](crop_batches)
    inputs, sizes = [], []
    for out in features:
        inputs += [out["x_norm_clstoken"], out["x_norm_patchtokens"]]
        sizes.append((len(inputs[-2]), len(inputs[-1])))
    logits = teacher["dino_head"](inputs)
    cls = [torch.cat(own) for own in zip(*logits[0::2], strict=True)]
    patches = [torch.cat(own) for own in zip(*logits[1::2], strict=True)]
    cls_split = [x.split([n for n, _ in sizes]) for x in cls_targets(cls, temperature)]
    masked = patches if patch_targets is None else patch_targets(patches, temperature)
    patch_split = [x.split([m for _, m in sizes]) for x in masked]
    return [
        Targets([x[i] for x in cls_split], [x[i] for x in patch_split]) for i in range(len(shards))
    ]
