"""The POA meta-architecture: a teacher, an intact student, and an elastic student sampled anew each step."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin import ranks
from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import backbone_errors, build_backbone
from poa_plugin.config.schema import Config
from poa_plugin.device import autocast, resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl.centering import Centering
from poa_plugin.ssl.heads import MultiHead, head_options
from poa_plugin.ssl.objective import (
    HeadLoss,
    LossTerms,
    Probabilities,
    Shard,
    Targets,
    extra_terms,
    koleo_terms,
)
from poa_plugin.ssl.param_groups import params_groups
from poa_plugin.ssl.prototypes import chunk_width, chunks, teacher_rows
from poa_plugin.ssl.reduction import Reduction
from poa_plugin.ssl.students import ROLES, make_shard, run_students
from poa_plugin.ssl.targets import Teacher

ELASTIC_TERMS = ("cross_view_elastic", "same_view", "masked_patch_elastic", "koleo_elastic")


@META_ARCHS.register_as("poa")
class POA(nn.Module):
    """The full method behind DINOv2's protocol for meta-architectures.

    Every random choice is a function of (seed, step, shard); the step is a buffer that
    `update_teacher` counts up, so that a loop which passes no step drives the model as well.
    DINOv2 itself is this class with the elastic terms switched off and lambda_ie = 1.

    Args:
        config: a resolved configuration.

    Attributes:
        step: how many steps were taken, a buffer for checkpoints; `steps_taken` is the same number without a
            wait for the device. `set_step` sets both.
        terms_by_head: the last step's loss terms of this process's shards, (heads,) each and detached; without
            KoLeo, which is not computed by heads.
        reduction: adds the gradients of several ranks; `joint_students`: see `train.joint_students`.
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
        if config.train.centering == "centering":
            self.cls_targets, self.patch_targets = Centering(sizes), Centering(sizes)
        self.chunk_width = chunk_width(config, self.mask_grid)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.steps_taken = 0
        self.register_load_state_dict_post_hook(_read_step)
        self.terms_by_head: dict[str, Tensor] = {}
        self.reduction = Reduction()
        self.joint_students: bool = config.train.joint_students
        scaled = config.train.precision == "fp16"
        self.fp16_scaler = (
            torch.amp.GradScaler(resolve_device(config.train.device).type) if scaled else None
        )
        terms = cast(Mapping[str, bool], config.loss.terms)
        self.has_elastic_student = any(terms[name] for name in ELASTIC_TERMS)

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
        """Start the teacher from the student's weights (DINOv2's protocol)."""
        self.teacher.load_state_dict(self.student.state_dict())

    def forward_backward(
        self,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None = None,
    ) -> LossTerms:
        """Compute the loss of one step and its gradients, shard by shard.

        Of several ranks, each has as many shards as the others, those of rank 0 being the first ones.

        Args:
            data: one shard's batch under DINOv2's names, or batches of this process's shards, each read when it
                is needed. `collated_global_crops` (2 B, 3, g, g) and `collated_local_crops` (V * B, 3, l, l)
                are uint8, or normalized floating-point numbers; `collated_masks` (2 B, N) bool; where there are
                `mask_indices_list` (M,) and `masks_weight` (M,), they are not computed here. Batches stay where
                they are, and are moved to the device one at a time.
            teacher_temp: the teacher's temperature.
            subnets: the elastic students, one for each shard of this process; sampled if None.

        Returns:
            The loss terms of this process's shards, detached scalars: their sum over all ranks is what was
            optimized.
        """
        terms: dict[str, list[Tensor]] = defaultdict(list)
        for of_pass, is_last in self._passes(data, teacher_temp, subnets):
            loss = torch.stack([term.sum() for term in of_pass.values()]).sum()
            if self.fp16_scaler is not None:
                loss = self.fp16_scaler.scale(loss)
            self.reduction.before_backward(is_last)
            loss.backward()
            for name, term in of_pass.items():
                terms[name].append(term.detach())
        self.reduction.after_backward()
        sums = {name: torch.stack(of_shards).sum(0) for name, of_shards in terms.items()}
        self.terms_by_head = {name: term for name, term in sums.items() if term.dim()}
        return {name: term.sum() for name, term in sums.items()}

    def loss_terms(
        self,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None = None,
    ) -> LossTerms:
        """Return the terms that `forward_backward` differentiates, by name and head, with their graph.

        The loss is their sum over all ranks. Of several shards, all graphs are in memory at once.
        """
        terms: LossTerms = {}
        for of_pass, _ in self._passes(data, teacher_temp, subnets):
            for name, term in of_pass.items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def _passes(
        self,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        teacher_temp: float,
        subnets: Sequence[Subnet] | None,
    ) -> Iterator[tuple[LossTerms, bool]]:
        """Yield the loss terms of each shard, and whether they are the last of the step.

        They are those of the intact, then of the elastic student, with one student's activations in memory; or
        of both together (`joint_students`), which calls every block once, as sharded parameters need.
        """
        batches: deque[Mapping[str, Any]] = deque()
        where = (self.step.device, self.masks_active)
        with self.autocast():
            targets = self._teacher_targets(data, batches, teacher_temp)
        n_local = len(batches)
        n_shards, first = ranks.world() * n_local, ranks.rank() * n_local
        if subnets is None:
            subnets = self.sample_subnets(n_shards)[first : first + n_local]
        roles = ROLES if self.has_elastic_student else ROLES[:1]
        passes = [roles] if self.joint_students else [(role,) for role in roles]
        for position, subnet in zip(range(n_local), subnets, strict=True):
            shard = make_shard(position, first, subnet, batches.popleft(), *where)
            intact: dict[int, Probabilities] = {}
            for of_pass in passes:
                with self.autocast():
                    terms = self._terms(shard, targets, of_pass, intact)
                # An intact student without loss terms still gives the elastic one its targets.
                if terms:
                    is_last = not batches and of_pass is passes[-1]
                    yield {name: term / n_shards for name, term in terms.items()}, is_last

    def _teacher_targets(
        self,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        batches: deque[Mapping[str, Any]],
        temperature: float,
    ) -> Targets:
        """Return the teacher's targets of all shards, and append their batches to `batches` as they arrive."""
        where = (self.step.device, self.masks_active)

        def shards() -> Iterator[Shard]:
            for position, batch in enumerate([data] if isinstance(data, Mapping) else data):
                batches.append(batch)
                of_teacher = {**batch, "collated_local_crops": None}
                yield make_shard(position, 0, self.space.intact, of_teacher, *where)

        teacher = Teacher(
            self.teacher,
            self.space.intact,
            self.centering,
            self.chunk_width,
            teacher_rows(self.config, self.mask_grid),
        )
        return teacher.targets(shards(), temperature)

    def _terms(
        self,
        shard: Shard,
        targets: Targets,
        roles: Sequence[str],
        intact: dict[int, Probabilities],
    ) -> LossTerms:
        """Return a shard's loss terms of the students that run together, by name and head.

        Args:
            shard: the batch.
            targets: the teacher's.
            roles: of the students.
            intact: by head, the probabilities that the intact student stores for the elastic student after it.
        """
        key = (self.config.train.seed, self.steps_taken)
        backbone = cast(ElasticBackbone, self.student["backbone"])
        students = run_students(backbone, self.space.intact, shard, roles, *key)

        def head_terms(head: int, features: Sequence[Tensor], prototypes: Tensor) -> LossTerms:
            parts = chunks(len(prototypes), self.chunk_width)
            loss = HeadLoss(self.config, shard, targets, head, parts, intact)
            terms: LossTerms = {}
            for (role, student), rows in zip(students.items(), features, strict=True):
                terms |= loss(role, student, rows, prototypes)
            return terms

        tokens = [student.tokens for student in students.values()]
        by_head = self.student["dino_head"](tokens, head_terms)
        terms = {name: torch.stack([of_head[name] for of_head in by_head]) for name in by_head[0]}
        n_students = 2 if self.has_elastic_student else 1
        for role, student in students.items():
            terms |= koleo_terms(self.config, role, student, n_students)
            terms |= extra_terms(self.config, role, shard, student, n_students)
        return terms

    def sample_subnets(self, n_shards: int) -> list[Subnet]:
        """Return this step's elastic students, one for each shard of all ranks; the intact one without any."""
        if not self.has_elastic_student:
            return [self.space.intact] * n_shards
        seed, step = self.config.train.seed, self.steps_taken
        return [self.space.sample(seed, step, shard) for shard in range(n_shards)]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: momentum * teacher + (1 - momentum) * student; then count the step.

        The elastic student takes part through the weights it shares with the intact one.
        """
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        self.set_step(self.steps_taken + 1)

    def skip_step(self) -> None:
        """Count a step whose loss is not finite, and discard its update of the centers."""
        for centering in self.centering:
            centering.forget_pending()
        self.set_step(self.steps_taken + 1)

    def set_step(self, step: int) -> None:
        """Set the number of steps that were taken."""
        self.steps_taken = step
        self.step.fill_(step)

    @property
    def centering(self) -> list[Centering]:
        """The centers of class tokens and of masked patches; none with Sinkhorn-Knopp."""
        return [module for module in self.children() if isinstance(module, Centering)]

    @property
    def masks_active(self) -> bool:
        """Whether students see masked global crops in this step (published code: from an epoch on)."""
        ibot, terms = self.config.ibot, self.config.loss.terms
        started = self.steps_taken >= ibot.start_epoch * self.config.train.OFFICIAL_EPOCH_LENGTH
        used = terms.masked_patch_intact or terms.masked_patch_elastic
        return bool(started and used and ibot.loss_weight > 0)

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass, in the recipe's precision."""
        return autocast(self.step.device, self.config.train.precision)


def _read_step(model: POA, _: object) -> None:
    model.steps_taken = int(model.step)
