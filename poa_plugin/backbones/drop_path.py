"""Stochastic depth, drawn before the forward pass so that a block is a pure function of its inputs.

A draw depends on its generator alone, not on recomputation under activation checkpointing, other crop
batches of the pass, or other ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from poa_plugin.backbones.attention import Layout
from poa_plugin.device import to_device

SUBSET_ABOVE = 0.1
"""Rates above this use the batch-subset form (DINOv2 `layers/block.py`)."""


def draw_drop_path(
    rates: Sequence[float],
    batch: int,
    device: torch.device,
    generator: torch.Generator | None = None,
    subset_above: float = SUBSET_ABOVE,
) -> list[Tensor | None]:
    """Draw which images get the residual of each block's two branches.

    Args:
        rates: the drop rate of each block.
        batch: images in the crop batch.
        device: of the returned tensors.
        generator: a CPU generator; None uses torch's global one.
        subset_above: the rate above which the batch-subset form is used.

    Returns:
        For each block None (nothing is dropped), a (2, n) tensor of image indices (batch-subset
        form: these n images get the residual, scaled by batch / n), or a (2, batch) tensor of
        factors, 0 or 1 / (1 - rate) (plain form).
    """
    return [_draw(rate, batch, device, generator, subset_above) for rate in rates]


def add_residual(
    x: Tensor, branch: Callable[[Tensor], Tensor], drop_path: Tensor | None = None
) -> Tensor:
    """Return `x + branch(x)` with a row of `draw_drop_path` applied.

    Args:
        x: (B, ...) tokens.
        branch: maps (n, ...) to (n, ...).
        drop_path: None, (n,) indices of the images that get the residual, or (B,) factors.
    """
    if drop_path is None:
        return x + branch(x)
    if drop_path.dtype == torch.long:
        residual = branch(x[drop_path]).to(x.dtype)
        return torch.index_add(x, 0, drop_path, residual, alpha=len(x) / max(len(drop_path), 1))
    return x + branch(x) * drop_path.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def add_packed_residual(
    x: Tensor,
    branch: Callable[[Tensor, Layout], Tensor],
    layout: Layout,
    drop_paths: Sequence[Tensor | None],
) -> Tensor:
    """Return `x + branch(x)` for packed tokens, as `add_residual` does for each size of image.

    Args:
        x: (T, D) tokens.
        branch: maps tokens and their layout to as many tokens.
        layout: of `x`.
        drop_paths: for each entry of the layout, as in `add_residual`: all None, all indices or all factors.
    """
    drawn = [drop_path for drop_path in drop_paths if drop_path is not None]
    if not drawn:
        return x + branch(x, layout)
    if drawn[0].dtype != torch.long:
        pairs = zip(drawn, layout, strict=True)
        factors = torch.cat([drop_path.repeat_interleave(n) for drop_path, (_, n) in pairs])
        return x + branch(x, layout) * factors.to(x.dtype).unsqueeze(-1)
    rows, kept_layout = kept_rows(layout, drawn)
    sizes = [images * n for images, n in kept_layout]
    residuals = branch(x[rows], kept_layout).to(x.dtype).split(sizes)
    out = x.clone()
    entries = zip(rows.split(sizes), residuals, layout, kept_layout, strict=True)
    for kept, residual, (images, _), (n_kept, _) in entries:
        out.index_add_(0, kept, residual, alpha=images / max(n_kept, 1))
    return out


def kept_rows(layout: Layout, drop_paths: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """Return the packed tokens of the images in the batch subsets, and their layout."""
    rows, start = [], 0
    for drop_path, (images, n) in zip(drop_paths, layout, strict=True):
        rows.append(
            (
                start + drop_path.unsqueeze(1) * n + torch.arange(n, device=drop_path.device)
            ).flatten()
        )
        start += images * n
    kept_layout = tuple(
        (len(drop_path), n) for drop_path, (_, n) in zip(drop_paths, layout, strict=True)
    )
    return torch.cat(rows), kept_layout


def image_factors(layout: Layout, drop_paths: Sequence[Tensor | None]) -> Tensor | None:
    """Return the factor of each packed image's residual, (images,); None if nothing is dropped.

    Args:
        layout: of packed tokens.
        drop_paths: for each entry of the layout, as in `add_residual`.
    """
    drawn = [drop_path for drop_path in drop_paths if drop_path is not None]
    if not drawn:
        return None
    factors = []
    for drop_path, (images, _) in zip(drawn, layout, strict=True):
        if drop_path.dtype == torch.long:
            zeros = torch.zeros(images, device=drop_path.device)
            factors.append(zeros.index_fill_(0, drop_path, images / max(len(drop_path), 1)))
        else:
            factors.append(drop_path)
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
        return to_device(torch.stack(branches), device)
    kept = torch.rand(2, batch, generator=generator) >= rate
    return to_device(kept / (1 - rate), device)
