"""The POA meta-architecture: a teacher, an intact student, and an elastic student sampled anew each step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import backbone_errors, build_backbone
from poa_plugin.config.schema import Config
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl.centering import Centering, SinkhornKnopp
from poa_plugin.ssl.heads import MultiHead, head_options
from poa_plugin.ssl.objective import (
    Parts,
    Shard,
    Student,
    Targets,
    head_parts,
    koleo_parts,
    mean_over_shards,
)
from poa_plugin.ssl.param_groups import params_groups
from poa_plugin.ssl.students import ROLES, make_shard, run_students
from poa_plugin.ssl.targets import teacher_targets


@META_ARCHS.register_as("poa")
class POA(nn.Module):
    """The whole method behind DINOv2's protocol for meta-architectures.

    Every random choice is a function of (seed, step, shard); the step is a buffer that
    `update_teacher` counts up, so that a loop which passes no step drives the model as well.
    DINOv2 itself is this class with the elastic terms switched off and lambda_ie = 1.

    Args:
        config: a resolved configuration.

    Attributes:
        step: how many steps were taken.
        terms_by_head: the last step's loss terms, (heads,) each and detached, but for KoLeo, which no head
            has a part in.
    """

    step: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config)
        with backbone_errors(config.student.arch):
            self.space = backbone.space
            if config.crops.local_crops_number:
                backbone.check_image_size(config.crops.local_crops_size)
            self.mask_grid = backbone.mask_grid(config.crops.global_crops_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed + 1)
            head = MultiHead(backbone.feature_width(self.space.intact), **head_options(config))
        self.student = nn.ModuleDict({"backbone": backbone, "dino_head": head}).train()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        sizes = config.dino.head_n_prototypes
        centered = config.train.centering == "centering"
        self.cls_targets = Centering(sizes) if centered else SinkhornKnopp()
        self.patch_targets = Centering(sizes) if centered else SinkhornKnopp()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.terms_by_head: dict[str, Tensor] = {}
        scaled = config.train.precision == "fp16"
        self.fp16_scaler = (
            torch.amp.GradScaler(resolve_device(config.train.device).type) if scaled else None
        )
        terms = config.loss.terms
        self.has_elastic_student = (
            terms.cross_view_elastic
            or terms.same_view
            or terms.masked_patch_elastic
            or terms.koleo_elastic
        )

    def train(self, mode: bool = True) -> POA:
        """Set the students' mode; the teacher is always in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def get_params_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups (DINOv2's protocol); see `param_groups.params_groups`."""
        optim = self.config.optim
        return params_groups(self.student, optim.layerwise_decay, optim.patch_embed_lr_mult)

    def prepare_for_distributed_training(self) -> None:
        """Start the teacher from the student's weights (DINOv2's protocol).

        Raises:
            UserError: more than one process takes part, which this version cannot train.
        """
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UserError("Training runs in one process; set train.shards for several streams.")
        self.teacher.load_state_dict(self.student.state_dict())

    def forward_backward(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of one step and its gradients.

        Args:
            data: one shard's batch under DINOv2's names (`collated_global_crops`,
                `collated_local_crops`, `collated_masks`), or a list of them, one for each shard.
            teacher_temp: the teacher's temperature.
            subnets: the elastic students, one for each shard; sampled if None.

        Returns:
            The summands of the loss by term, detached scalars: their sum is what was optimized.
        """
        found: dict[str, Tensor] = {}
        self.terms_by_head = {}
        for parts in self._walks(data, teacher_temp, subnets):
            if not parts:
                continue
            loss = torch.stack([part.sum() for part in parts.values()]).sum()
            if self.fp16_scaler is not None:
                loss = self.fp16_scaler.scale(loss)
            loss.backward()
            found |= {name: part.detach().sum() for name, part in parts.items()}
            heads = {name: part.detach() for name, part in parts.items() if part.dim()}
            self.terms_by_head |= heads
        return found

    def loss_parts(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None = None,
    ) -> Parts:
        """Return the differentiable summands of the loss, by term and head.

        See `forward_backward` for the arguments. The loss is the mean over shards, as averaged
        gradients of ranks would make it; Sinkhorn-Knopp sees the teacher's outputs of all shards.
        """
        walks = self._walks(data, teacher_temp, subnets)
        return {name: part for parts in walks for name, part in parts.items()}

    def _walks(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None,
    ) -> Iterator[Parts]:
        """Yield the summands of the intact and then of the elastic student, or of both in one walk.

        One after the other, only one student's activations are in memory. Together (`train.joint_students`)
        every block is called once, which is what parameters that live in shards need.
        """
        batches = [data] if isinstance(data, Mapping) else list(data)
        if subnets is None:
            subnets = self.sample_subnets(len(batches))
        shards = [
            self._shard(index, batch, subnet)
            for index, (batch, subnet) in enumerate(zip(batches, subnets, strict=True))
        ]
        device = shards[0].global_crops.device
        with self._autocast(device):
            targets = self._teacher_targets(shards, teacher_temp)
        roles = ROLES if self.has_elastic_student else ROLES[:1]
        intact: dict[tuple[int, int], Tensor] = {}
        for walk in [roles] if self.config.train.joint_students else [(role,) for role in roles]:
            with self._autocast(device):
                parts = self._walk_parts(shards, targets, walk, intact)
            yield parts

    def _walk_parts(
        self,
        shards: Sequence[Shard],
        targets: Sequence[Targets],
        walk: Sequence[str],
        intact: dict[tuple[int, int], Tensor],
    ) -> Parts:
        """Return the summands of the students that walk together.

        `intact` takes the intact student's logits of class tokens, by head and shard, for an
        elastic student that comes after it.
        """
        students = self._run_students(shards, walk)

        def consume(head: int, logits: Sequence[Tensor]) -> Parts:
            rows, every = iter(logits), []
            for i, (target, shard, own) in enumerate(zip(targets, shards, students, strict=True)):
                by_role = {role: next(rows) for role in walk}
                sizes = own[walk[0]].sizes
                if walk == ROLES[:1] and self.config.loss.terms.same_view:
                    intact[head, i] = by_role["intact"].detach()[: sizes[0] + sizes[1]].clone()
                cls, patches = target.cls[head], target.patches[head]
                kept = intact.get((head, i)) if "intact" not in walk else None
                every.append(head_parts(self.config, cls, patches, shard, sizes, by_role, kept))
            return mean_over_shards(every)

        tokens = [student.tokens for own in students for student in own.values()]
        heads = self.student["dino_head"](tokens, consume)
        n_students = 2 if self.has_elastic_student else 1
        spread = [koleo_parts(self.config, own, n_students) for own in students]
        joined = {name: torch.stack([parts[name] for parts in heads]) for name in heads[0]}
        return joined | mean_over_shards(spread)

    def sample_subnets(self, n_shards: int) -> list[Subnet]:
        """Return this step's elastic students, one for each shard; the intact one where there is none."""
        if not self.has_elastic_student:
            return [self.space.intact] * n_shards
        seed, step = self.config.train.seed, int(self.step)
        return [self.space.sample(seed, step, shard) for shard in range(n_shards)]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: momentum * teacher + (1 - momentum) * student; then count the step.

        The elastic student takes part through the weights it shares with the intact one.
        """
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        self.step += 1

    def skip_step(self) -> None:
        """Count a step whose loss is not finite, and forget what it would have put into the centers."""
        for targets in (self.cls_targets, self.patch_targets):
            if isinstance(targets, Centering):
                targets.forget_pending()
        self.step += 1

    @property
    def masks_active(self) -> bool:
        """Whether students see masked global crops in this step (published code: from an epoch on)."""
        ibot, terms = self.config.ibot, self.config.loss.terms
        started = int(self.step) >= ibot.start_epoch * self.config.train.OFFICIAL_EPOCH_LENGTH
        used = terms.masked_patch_intact or terms.masked_patch_elastic
        return bool(started and used and ibot.loss_weight > 0)

    def _shard(self, index: int, batch: Mapping[str, Any], subnet: Subnet) -> Shard:
        return make_shard(index, subnet, batch, self.step.device, self.masks_active)

    def _teacher_targets(self, shards: Sequence[Shard], temperature: float) -> list[Targets]:
        patches = self.patch_targets if self.masks_active else None
        intact = self.space.intact
        return teacher_targets(self.teacher, intact, shards, self.cls_targets, patches, temperature)

    def _run_students(
        self, shards: Sequence[Shard], walk: Sequence[str]
    ) -> list[dict[str, Student]]:
        seed, step = self.config.train.seed, int(self.step)
        return run_students(
            cast(ElasticBackbone, self.student["backbone"]),
            self.space.intact,
            shards,
            walk,
            seed,
            step,
        )

    def _autocast(self, device: torch.device) -> torch.autocast:
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = dtypes.get(self.config.train.precision)
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
