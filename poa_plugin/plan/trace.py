"""One shard's part of a step, run on tensors without numbers: what is live when, and how much is computed.

Nothing is modeled: the meta-architecture itself runs, forward and backward, on the crops of a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from poa_plugin.backbones.base import CropBatch, ElasticBackbone
from poa_plugin.config.schema import Config
from poa_plugin.crops import masked_patches
from poa_plugin.data.masking import shard_masks
from poa_plugin.device import on_meta
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.plan.shapes import (
    META,
    Meter,
    Recomputation,
    ShapeTensor,
    as_on_gpu,
    metered,
    without_numbers,
)
from poa_plugin.randomness import numpy_generator
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl import POA
from poa_plugin.ssl.students import ROLES, make_shard, run_students
from poa_plugin.train.parallel import recompute_blocks

CROPS, ACTIVATIONS, HEADS, KEPT, GRADIENTS = "crops", "activations", "heads", "kept", "gradients"
"""What memory of a pass is for: float32 crops, what the backbone makes, forward and backward, what heads and
losses make, what the teacher leaves for the students, and gradients of weights."""


@dataclass
class Pass:
    """The teacher's pass, or the students'.

    Attributes:
        name: for people.
        parts: bytes by what they are for, at the peak of the pass.
        flops: by part, multiplications and additions.
    """

    name: str
    parts: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)

    @property
    def peak(self) -> int:
        """Bytes at the peak of the pass, without weights and moments."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class ShardTrace:
    """What one shard takes.

    Attributes:
        passes: in their order.
        gradient_bytes: of all weights.
        parameters: of the student, backbone and heads.
        buffer_bytes: of the meta-architecture.
        teacher_rows: tokens that the teacher's heads get, class tokens and masked patches.
        flops: with an average elastic student; a multiplication and an addition are two.
    """

    passes: Sequence[Pass]
    gradient_bytes: int
    parameters: int
    buffer_bytes: int
    teacher_rows: int
    flops: float


def trace_shard(config: Config, gpu: bool) -> ShardTrace:
    """Run a shard of a recipe, masks on, with the largest elastic student that is drawn.

    Args:
        config: a resolved configuration.
        gpu: whether attention is a GPU's: one kernel, whatever bias it has.
    """
    model = meta_model(config)
    if config.train.activation_checkpointing:
        recompute_blocks(model, lambda: (nullcontext(), Recomputation()))
    without_numbers(model)
    model.train().fp16_scaler = None
    model.set_step(config.ibot.start_epoch * config.train.OFFICIAL_EPOCH_LENGTH)
    batch = shard_batch(config, model)
    members = list(model.space)
    elastic = members[-2] if model.has_elastic_student and len(members) > 1 else members[-1]
    with as_on_gpu(gpu), metered() as meter:
        watch = _Watch(model, meter)
        model.forward_backward([batch], config.teacher.teacher_temp, [elastic])
        watch.end()
    flops = float(sum(sum(of_pass.flops.values()) for of_pass in watch.passes))
    if model.has_elastic_student:
        with as_on_gpu(gpu):
            passes = 4 if config.train.activation_checkpointing else 3  # a backward pass is two
            flops += passes * _average_difference(model, batch, elastic)
    parameters = list(model.student.parameters())
    return ShardTrace(
        passes=watch.passes,
        gradient_bytes=sum(p.nbytes for p in parameters if p.requires_grad),
        parameters=sum(p.numel() for p in parameters),
        buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
        teacher_rows=len(batch["collated_global_crops"]) + len(batch["mask_indices_list"]),
        flops=flops,
    )


def meta_model(config: Config) -> POA:
    """Return the meta-architecture on the meta device."""
    with on_meta():
        model: POA = META_ARCHS.get(config.meta_arch)(config)
    return model


def shard_batch(config: Config, model: POA) -> dict[str, Tensor]:
    """Return a shard's batch whose crops have no numbers, and whose masks are the first shard's of the run."""
    crops, images = config.crops, config.train.batch_size_per_shard
    masks = shard_masks(
        2 * images,
        model.mask_grid,
        config.ibot.mask_sample_probability,
        (config.ibot.mask_ratio_min_max[0], config.ibot.mask_ratio_min_max[1]),
        numpy_generator("masks", config.train.seed, 0, 0),
    )
    ids, weights = masked_patches(masks)
    sides = {
        "collated_global_crops": (2, crops.global_crops_size),
        "collated_local_crops": (crops.local_crops_number, crops.local_crops_size),
    }
    batch: dict[str, Tensor] = {
        name: ShapeTensor(
            torch.empty(views * images, 3, side, side, dtype=torch.uint8, device=META)
        )
        for name, (views, side) in sides.items()
    }
    return {
        **batch,
        "collated_masks": masks,
        "mask_indices_list": ids,
        "masks_weight": weights,
    }


class _Watch:
    """Splits a shard's work into passes, and their memory into parts, by hooks on the model's modules.

    Args:
        model: whose teacher and student are watched.
        meter: counts.
    """

    def __init__(self, model: POA, meter: Meter) -> None:
        self.meter, self.passes = meter, [Pass("teacher")]
        self._names = iter(
            ["both students"]
            if model.config.train.joint_students
            else (f"{r} student" for r in ROLES)
        )
        meter.label = CROPS
        teacher, student = model.teacher["backbone"], model.student["backbone"]
        self._handles = [
            teacher.register_forward_pre_hook(lambda *_: self._set(ACTIVATIONS)),
            teacher.register_forward_hook(lambda *_: self._set(HEADS)),
            student.register_forward_pre_hook(self._begin_student),
            student.register_forward_hook(self._begin_heads),
            *(
                parameter.register_post_accumulate_grad_hook(self._note_gradient)
                for parameter in model.student.parameters()
                if parameter.requires_grad
            ),
        ]

    def end(self) -> None:
        """Close the last pass, and watch no more."""
        self._end_pass()
        for handle in self._handles:
            handle.remove()

    def _end_pass(self) -> None:
        self.passes[-1].parts += self.meter.at_peak
        self.passes[-1].flops += self.meter.flops

    def _set(self, label: str) -> None:
        self.meter.label = label

    def _begin_student(self, _: nn.Module, arguments: tuple[Sequence[CropBatch]]) -> None:
        self._end_pass()
        if len(self.passes) == 1:
            self.meter.relabel_all(KEPT)
        for crop_batch in arguments[0]:
            self.meter.relabel(crop_batch.images, CROPS)
        self.meter.flops.clear()
        self.meter.restart_peak()
        self.passes.append(Pass(next(self._names)))
        self._set(ACTIVATIONS)

    def _begin_heads(self, _: nn.Module, __: object, features: object) -> None:
        self._set(HEADS)
        for tensor in tree_leaves(features):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._set(ACTIVATIONS))

    def _note_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.meter.relabel(parameter.grad, GRADIENTS)


def _average_difference(model: POA, batch: Mapping[str, Tensor], traced: Subnet) -> float:
    """Return the forward FLOPs of an average elastic student's backbone less those of the traced one's.

    As in `SearchSpace.cost`, the deepest network of a width gives those of all depths: a block costs the same
    in each.
    """
    space = model.space
    backbone = cast(ElasticBackbone, model.student["backbone"])
    by_width = {}
    for width in space.widths:
        deepest = max((s for s in space if s.width == width), key=lambda s: s.total_depth)
        by_width[width] = (deepest, _forward_flops(model, batch, deepest))

    def cost(subnet: Subnet) -> int:
        deepest, flops = by_width[subnet.width]
        skipped = set(backbone.member_path(deepest)) - set(backbone.member_path(subnet))
        return flops[""] - sum(flops[name] for name in skipped)

    pool = [subnet for subnet, n in zip(space, space.multiplicities, strict=True) for _ in range(n)]
    pool = pool[:-1] or pool
    drawn = Counter(pool)
    mean = sum(cost(subnet) * times for subnet, times in drawn.items()) / len(pool)
    return mean - cost(traced)


def _forward_flops(model: POA, batch: Mapping[str, Tensor], subnet: Subnet) -> Counter[str]:
    """Return the FLOPs of a student's backbone on a shard: of each module of its path, and of all ("")."""
    backbone = cast(ElasticBackbone, model.student["backbone"])
    by_name: Counter[str] = Counter()
    handles = []
    with metered() as meter, torch.no_grad():

        def note(name: str, sign: int) -> Callable[..., None]:
            def hook(*_: object) -> None:
                by_name[name] += sign * meter.flops[""]

            return hook

        for name in backbone.member_path(subnet):
            module = backbone.get_submodule(name)
            handles.append(module.register_forward_pre_hook(note(name, -1)))
            handles.append(module.register_forward_hook(note(name, 1)))
        shard = make_shard(0, 0, subnet, batch, model.step.device, model.masks_active)
        with model.autocast():
            run_students(backbone, model.space.intact, shard, ROLES[1:], 0, 0)
        by_name[""] = meter.flops[""]
    for handle in handles:
        handle.remove()
    return by_name
