"""Stochastic depth, drawn before the forward pass so that a block is a pure function of its inputs.

A draw is a function of its generator alone: recomputation under activation checkpointing, other
streams in the same walk, and other ranks do not disturb it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from poa_plugin.backbones.attention import Layout

SUBSET_ABOVE = 0.1
"""Rates above this use the batch-subset form (DINOv2 `layers/block.py`)."""


def draw_drop_path(
    rates: Sequence[float],
    batch: int,
    device: torch.device,
    generator: torch.Generator | None = None,
    subset_above: float = SUBSET_ABOVE,
) -> list[Tensor | None]:
    """Draw what each block's two residual branches keep.

    Args:
        rates: the drop rate of each block.
        batch: images in the stream.
        device: where the draws are needed.
        generator: a CPU generator; None uses torch's global one.
        subset_above: from which rate on the batch-subset form is used.

    Returns:
        For each block None (nothing is dropped), a (2, n) tensor of image indices (batch-subset
        form: these n images get the residual, scaled by batch / n), or a (2, batch) tensor of
        factors, 0 or 1 / (1 - rate) (plain form).
    """
    return [_draw(rate, batch, device, generator, subset_above) for rate in rates]


def add_residual(
    x: Tensor, branch: Callable[[Tensor], Tensor], keep: Tensor | None = None
) -> Tensor:
    """Return `x + branch(x)` with a row of `draw_drop_path` applied.

    Args:
        x: (B, ...) tokens.
        branch: maps (n, ...) to (n, ...).
        keep: None, (n,) indices of images, or (B,) factors.
    """
    if keep is None:
        return x + branch(x)
    if keep.dtype == torch.long:
        residual = branch(x[keep]).to(x.dtype)
        return torch.index_add(x, 0, keep, residual, alpha=len(x) / max(len(keep), 1))
    return x + branch(x) * keep.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def add_packed_residual(
    x: Tensor,
    branch: Callable[[Tensor, Layout], Tensor],
    layout: Layout,
    keeps: Sequence[Tensor | None],
) -> Tensor:
    """Return `x + branch(x)` for packed tokens, as `add_residual` does for each size of image.

    Args:
        x: (T, D) tokens.
        branch: maps tokens and their layout to as many tokens.
        layout: of `x`.
        keeps: for each entry of the layout, as in `add_residual`: all None, all indices or all factors.
    """
    kept = [keep for keep in keeps if keep is not None]
    if not kept:
        return x + branch(x, layout)
    if kept[0].dtype != torch.long:
        pairs = zip(kept, layout, strict=True)
        factors = torch.cat([keep.repeat_interleave(n) for keep, (_, n) in pairs])
        return x + branch(x, layout) * factors.to(x.dtype).unsqueeze(-1)
    rows, few = kept_rows(layout, kept)
    sizes = [images * n for images, n in few]
    residuals = branch(x[rows], few).to(x.dtype).split(sizes)
    out = x.clone()
    parts = zip(rows.split(sizes), residuals, layout, few, strict=True)
    for places, residual, (images, _), (left, _) in parts:
        out.index_add_(0, places, residual, alpha=images / max(left, 1))
    return out


def kept_rows(layout: Layout, keeps: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """Return the packed tokens of the images that batch subsets keep, and how they lie together."""
    rows, start = [], 0
    for keep, (images, n) in zip(keeps, layout, strict=True):
        rows.append((start + keep.unsqueeze(1) * n + torch.arange(n, device=keep.device)).flatten())
        start += images * n
    few = tuple((len(keep), n) for keep, (_, n) in zip(keeps, layout, strict=True))
    return torch.cat(rows), few


def image_factors(layout: Layout, keeps: Sequence[Tensor | None]) -> Tensor | None:
    """Return by what each packed image's residual is multiplied: (images,); None if nothing is dropped.

    Args:
        layout: of packed tokens.
        keeps: for each entry of the layout, as in `add_residual`.
    """
    kept = [keep for keep in keeps if keep is not None]
    if not kept:
        return None
    factors = []
    for keep, (images, _) in zip(kept, layout, strict=True):
        if keep.dtype == torch.long:
            zeros = torch.zeros(images, device=keep.device)
            factors.append(zeros.index_fill_(0, keep, images / max(len(keep), 1)))
        else:
            factors.append(keep)
    return torch.cat(factors)


def _draw(
    rate: float,
    batch: int,
    device: torch.device,
    generator: torch.Generator | None,
    subset_above: float,
) -> Tensor | None:
    if rate == 0:
        return None
    if rate > subset_above:
        size = max(int(batch * (1 - rate)), 1)
        branches = [torch.randperm(batch, generator=generator)[:size] for _ in range(2)]
        return torch.stack(branches).to(device)
    kept = torch.rand(2, batch, generator=generator) >= rate
    return (kept / (1 - rate)).to(device)
