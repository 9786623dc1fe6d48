"""The objective: which loss terms there are, and how a shard's outputs become them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.config.schema import Config
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.registry import LOSS_TERMS
from poa_plugin.ssl import losses
from poa_plugin.ssl.assignments import Assignments
from poa_plugin.ssl.cross_entropy import SoftTargets, soft_cross_entropies
from poa_plugin.ssl.prototypes import compute_dtype, scaled_logits

LossTerms = dict[str, Tensor]
"""Loss terms by name; each is a vector over heads, or a scalar for KoLeo. Their sum is the loss."""

Probabilities = Callable[[slice], Tensor]
"""From a chunk of prototypes to (N, C) probabilities, detached."""


@dataclass(frozen=True)
class Shard:
    """One shard's crops within a step, on the device, with the iBOT masks that are active.

    Of the shards of this process it is number `position`, of those of all ranks number `index`. Shapes:
    `global_crops` (2 B, 3, g, g) and `local_crops` (V * B, 3, l, l), view-major; `masks` (2 B, N) bool;
    `patch_ids` (M,) of the masked patches in the flattened (2 B * N); `patch_weights` (M,), one over the
    number of masked patches in the patch's image.
    """

    position: int
    index: int
    subnet: Subnet
    global_crops: Tensor
    local_crops: Tensor | None
    masks: Tensor | None
    patch_ids: Tensor
    patch_weights: Tensor


@dataclass(frozen=True)
class Targets:
    """The teacher's assignments of a step's tokens, by head: of class tokens and of masked patches."""

    cls: Sequence[Assignments]
    patches: Sequence[Assignments]


@dataclass(frozen=True)
class Student:
    """The outputs of one student for one shard.

    `cls` (2 B, d) are its class tokens of the global crops; `tokens` (N, d) the inputs of the heads:
    the global class tokens, the local class tokens and the masked patches, `sizes` of each.
    """

    cls: Tensor
    tokens: Tensor
    sizes: tuple[int, int, int]

    @property
    def rows(self) -> tuple[slice, slice, slice]:
        """Where the global class tokens, the local ones and the masked patches lie among `tokens`."""
        n_global, n_local, n_patches = self.sizes
        cls = n_global + n_local
        return slice(n_global), slice(n_global, cls), slice(cls, cls + n_patches)


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """One head's loss terms of one shard (POA eq. 10, weighted as the recipe says).

    The head is computed in chunks of prototypes, unless one chunk holds them all.

    Args:
        config: a resolved configuration.
        shard: the batch.
        targets: the teacher's assignments.
        head: the number of the head.
        chunks: of its prototypes.
        intact: takes the intact student's probabilities of its class tokens, global and local ones, which
            are the elastic student's targets on the same view.
    """

    config: Config
    shard: Shard
    targets: Targets
    head: int
    chunks: Sequence[slice]
    intact: dict[int, Probabilities] = field(default_factory=dict)

    def __call__(
        self, role: str, student: Student, features: Tensor, prototypes: Tensor
    ) -> LossTerms:
        """Return the terms of a student, scalars.

        Args:
            role: `intact` or `elastic`; the elastic student comes after the intact one.
            student: which tokens it has.
            features: (N, D) of its tokens.
            prototypes: (K, D).
        """
        compare = self._compare_at_once if len(self.chunks) == 1 else self._compare_in_chunks
        rows = compare(role, student, features, prototypes)
        return self._weighted(role, rows, student)

    def _teacher(self, kind: Sequence[Assignments]) -> Probabilities:
        assignments = kind[self.head]
        return lambda chunk: assignments.of(self.shard.position, chunk)

    def _is_on(self, term: str) -> bool:
        return cast(Mapping[str, bool], self.config.loss.terms)[term]

    def _compare_at_once(
        self, role: str, student: Student, features: Tensor, prototypes: Tensor
    ) -> dict[str, Tensor]:
        """Return the cross-entropies of rows by term, from logits of all prototypes."""
        [chunk] = self.chunks
        logits = F.linear(features, prototypes)
        log_probs = losses.log_probabilities(logits, self.config.loss.student_temp)
        of_global, of_local, of_patches = (log_probs[rows] for rows in student.rows)
        n_cls = len(of_global) + len(of_local)
        rows = {}
        if self._is_on(f"cross_view_{role}"):
            view_a, view_b = self._teacher(self.targets.cls)(chunk).chunk(2)
            swapped = torch.cat([view_b, view_a])
            rows["cross_view_global"] = -(swapped * of_global).sum(-1)
            if len(of_local):
                over_crops = of_local.unflatten(0, (-1, len(view_a))).sum(0)
                rows["cross_view_local"] = -((view_a + view_b) * over_crops).sum(-1)
        if self._is_on(f"masked_patch_{role}") and self.shard.masks is not None:
            patches = self._teacher(self.targets.patches)(chunk)
            rows["masked_patch"] = -(patches * of_patches).sum(-1)
        if self._is_on("same_view") and role == "intact":
            probabilities = log_probs[:n_cls].detach().exp()
            self.intact[self.head] = lambda _: probabilities
        elif self._is_on("same_view"):
            rows["same_view"] = -(self.intact[self.head](chunk) * log_probs[:n_cls]).sum(-1)
        return rows

    def _compare_in_chunks(
        self, role: str, student: Student, features: Tensor, prototypes: Tensor
    ) -> dict[str, Tensor]:
        """Return the same, computed from one chunk of prototypes at a time."""
        of_global, of_local, of_patches = student.rows
        of_cls = slice(of_local.stop)
        soft_targets = {}
        if self._is_on(f"cross_view_{role}"):
            teacher = self._teacher(self.targets.cls)
            soft_targets["cross_view_global"] = SoftTargets(
                of_global, lambda chunk: torch.cat(teacher(chunk).chunk(2)[::-1])
            )
            if student.sizes[1]:
                soft_targets["cross_view_local"] = SoftTargets(
                    of_local, lambda chunk: torch.stack(teacher(chunk).chunk(2)).sum(0)
                )
        if self._is_on(f"masked_patch_{role}") and self.shard.masks is not None:
            soft_targets["masked_patch"] = SoftTargets(
                of_patches, self._teacher(self.targets.patches)
            )
        if self._is_on("same_view") and role == "elastic":
            soft_targets["same_view"] = SoftTargets(of_cls, self.intact[self.head])
        temp = self.config.loss.student_temp
        values, normalizers = soft_cross_entropies(
            features, prototypes, list(soft_targets.values()), temp, self.chunks
        )
        if self._is_on("same_view") and role == "intact":
            self.intact[self.head] = _probabilities(
                features[of_cls], prototypes, temp, normalizers[of_cls]
            )
        return dict(zip(soft_targets, values, strict=True))

    def _weighted(self, role: str, rows: Mapping[str, Tensor], student: Student) -> LossTerms:
        """Return the terms that cross-entropies of rows make."""
        dino, ibot, shard = self.config.dino, self.config.ibot, self.shard
        n_heads = len(dino.head_n_prototypes)
        weight = {"intact": dino.lambda_ie, "elastic": 1 - dino.lambda_ie}[role] / n_heads
        terms: LossTerms = {}
        if "cross_view_global" in rows:
            n_local = 2 * student.sizes[1] // student.sizes[0]
            in_global, in_local = losses.cross_view_means(
                rows["cross_view_global"],
                rows.get("cross_view_local"),
                n_local,
                self.config.loss.normalization,
            )
            terms[f"cross_view_{role}_global"] = dino.loss_weight * weight * in_global
            terms[f"cross_view_{role}_local"] = dino.loss_weight * weight * in_local
        if "masked_patch" in rows:
            assert shard.masks is not None
            value = losses.masked_patch_mean(
                rows["masked_patch"], shard.patch_weights, len(shard.masks)
            )
            terms[f"masked_patch_{role}"] = ibot.loss_weight * weight * value
        if "same_view" in rows:
            of_kinds = rows["same_view"].split(student.sizes[:2])
            for kind, of_kind in zip(("global", "local"), of_kinds, strict=True):
                if len(of_kind):
                    terms[f"same_view_{kind}"] = weight * of_kind.mean()
        return terms


def koleo_terms(config: Config, role: str, student: Student, n_students: int) -> LossTerms:
    """Return KoLeo's term of one shard and student: of both views of the global crops.

    Args:
        config: a resolved configuration.
        role: `intact` or `elastic`.
        student: its outputs.
        n_students: how many share the weight.
    """
    weight = config.dino.koleo_loss_weight
    if weight == 0 or not cast(Mapping[str, bool], config.loss.terms)[f"koleo_{role}"]:
        return {}
    of_views = torch.stack([losses.koleo(view) for view in student.cls.chunk(2)])
    return {f"koleo_{role}": weight / n_students * of_views.sum()}


def extra_terms(
    config: Config, role: str, shard: Shard, student: Student, n_students: int
) -> LossTerms:
    """Return the terms that `loss.extra_terms` names, of one shard and student.

    Args:
        config: a resolved configuration.
        role: `intact` or `elastic`.
        shard: the batch.
        student: its outputs.
        n_students: how many share the weights.
    """
    loss = config.loss
    return {
        f"{name}_{role}": weight / n_students * LOSS_TERMS.get(name)(student, shard)
        for name, weight in zip(loss.extra_terms, loss.extra_weights, strict=True)
    }


def trains_elastic_student(config: Config) -> bool:
    """Tell whether a recipe trains elastic students: one of their loss terms is on and has a weight."""
    dino, on = config.dino, config.loss.terms
    weight = 1 - dino.lambda_ie
    return bool(
        (on.cross_view_elastic and dino.loss_weight * weight > 0)
        or (on.same_view and weight > 0)
        or (on.masked_patch_elastic and config.ibot.loss_weight * weight > 0)
        or (on.koleo_elastic and dino.koleo_loss_weight > 0)
    )


def _probabilities(
    features: Tensor, prototypes: Tensor, temperature: float, normalizers: Tensor
) -> Probabilities:
    """Return the softmax of a student's logits over a temperature, stored as features only."""
    dtype = compute_dtype(features)
    x, w = features.detach().to(dtype), prototypes.detach().to(dtype)
    return lambda chunk: scaled_logits(x, w[chunk], temperature).sub_(normalizers[:, None]).exp_()
