"""Cross-entropies with soft targets, computed in chunks of prototypes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from poa_plugin.ssl.prototypes import compute_dtype, scaled_logits


class SoftTargets(NamedTuple):
    """What some rows of a student's features are compared with.

    Attributes:
        rows: of the features.
        probabilities: maps a chunk of prototypes to (R, C) targets, detached. R may divide the number of rows:
            then they repeat, as both teacher views' do for every local crop. A row may sum to any number.
    """

    rows: slice
    probabilities: Callable[[slice], Tensor]


def soft_cross_entropies(
    features: Tensor,
    prototypes: Tensor,
    targets: Sequence[SoftTargets],
    temperature: float,
    chunks: Sequence[slice],
) -> tuple[list[Tensor], Tensor]:
    """Return -sum_k q_k log softmax_k(features @ prototypes.T / temperature), for each row of each target.

    Equals the computation from all logits at once, value and gradients, without a tensor of more than (N, C):
    logits and targets are computed chunk by chunk, in the forward and again in the backward pass, at the
    precision of the autocast state in which this is called.

    Args:
        features: (N, D).
        prototypes: (K, D).
        targets: any number.
        temperature: of the student.
        chunks: of the K prototypes; together all of them.

    Returns:
        For each target a value for each of its rows, and the (N,) logarithms of the normalizers, detached:
        the student's probabilities are exp(logit / temperature - log normalizer).
    """
    *values, normalizers = _SoftCrossEntropies.apply(
        features, prototypes, list(targets), temperature, list(chunks), compute_dtype(features)
    )
    return values, normalizers


class _SoftCrossEntropies(torch.autograd.Function):
    """With m = sum_k q_k: the value m * lse(s) - sum_k q_k s_k, the gradient m * softmax(s) - q."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        prototypes: Tensor,
        targets: list[SoftTargets],
        temperature: float,
        chunks: list[slice],
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        x, w = features.to(dtype), prototypes.to(dtype)
        normalizers: Tensor | None = None
        dots: list[Tensor] = []
        masses: list[Tensor] = []
        for chunk in chunks:
            logits = scaled_logits(x, w[chunk], temperature)
            part = torch.logsumexp(logits, dim=1)
            normalizers = part if normalizers is None else torch.logaddexp(normalizers, part)
            for number, target in enumerate(targets):
                q = target.probabilities(chunk)
                dot = (_aligned(logits[target.rows], q) * q).sum(-1).flatten()
                mass = q.sum(-1)
                if chunk.start == 0:
                    dots.append(dot)
                    masses.append(mass)
                else:
                    dots[number] += dot
                    masses[number] += mass
        assert normalizers is not None
        masses = [_repeated(m, len(dot)) for m, dot in zip(masses, dots, strict=True)]
        values = [
            mass * normalizers[target.rows] - dot
            for mass, dot, target in zip(masses, dots, targets, strict=True)
        ]
        ctx.save_for_backward(features, prototypes, normalizers, *masses)
        ctx.targets, ctx.temperature, ctx.chunks, ctx.dtype = targets, temperature, chunks, dtype
        ctx.mark_non_differentiable(normalizers)
        return (*values, normalizers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, normalizers, *masses = ctx.saved_tensors
        x, w = features.to(ctx.dtype), prototypes.to(ctx.dtype)
        weights = [gradient / ctx.temperature for gradient in gradients[:-1]]
        of_row = torch.zeros_like(normalizers)
        for target, weight, mass in zip(ctx.targets, weights, masses, strict=True):
            of_row[target.rows] += weight * mass
        for_features = torch.zeros_like(features)
        for_prototypes = torch.empty_like(prototypes)
        for chunk in ctx.chunks:
            by_logits = scaled_logits(x, w[chunk], ctx.temperature)
            by_logits = by_logits.sub_(normalizers[:, None]).exp_().mul_(of_row[:, None])
            for target, weight in zip(ctx.targets, weights, strict=True):
                q = target.probabilities(chunk)
                of_targets = _aligned(weight[:, None], q) * q
                _aligned(by_logits[target.rows], q).sub_(of_targets)
            by_logits = by_logits.to(ctx.dtype)
            for_features += by_logits @ w[chunk]
            for_prototypes[chunk] = by_logits.T @ x
        return for_features, for_prototypes, None, None, None, None


def _aligned(rows: Tensor, q: Tensor) -> Tensor:
    """View (n * R, C) rows as (n, R, C), which (R, C) targets repeat along; without targets, as (1, 0, C)."""
    return rows.view(-1, len(q), rows.shape[-1]) if len(q) else rows.view(1, 0, rows.shape[-1])


def _repeated(mass: Tensor, n_rows: int) -> Tensor:
    return mass.repeat(n_rows // len(mass)) if len(mass) else mass
