"""The resizing of position embeddings as one graph for all grids, which an exported network needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CUBIC = -0.75
"""The coefficient of PyTorch's bicubic kernel."""


def positions_of_any_grid(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a (1, 1 + M * M, D) table to (1, 1 + h * w, D), as `vit.interpolate_position` does.

    `F.interpolate` takes its scale factors as numbers, so that a graph with it is for one grid, and a
    graph has no branch for the native grid. Two matrix products do the same for every grid; at the
    native one their matrices are the identity.

    Args:
        pos_embed: the class token's position, then those of a square of patches.
        grid: rows and columns; while a graph is traced they are tensors.
    """
    side = math.isqrt(int(pos_embed.shape[1]) - 1)
    counts = [torch.as_tensor(n, dtype=torch.float64) for n in grid]
    native = (counts[0] == side) & (counts[1] == side)
    scales = [torch.where(native, 1.0, side / (count + 0.1)).float() for count in counts]
    rows, columns = (_bicubic(side, n, scale) for n, scale in zip(grid, scales, strict=True))
    table = pos_embed[0, 1:].float().unflatten(0, (side, side))
    resized = torch.einsum("hr,rcd->hcd", rows, table)
    resized = torch.einsum("wc,hcd->hwd", columns, resized).flatten(0, 1).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :1], resized.unsqueeze(0)], dim=1)


def _bicubic(side: int, n: int, scale: Tensor) -> Tensor:
    """Return the (n, side) matrix that resamples `side` values at n points, `scale` apart.

    Points beyond the border take the border's value.
    """
    points = scale * (torch.arange(n) + 0.5) - 0.5
    first = points.floor()
    taps = torch.arange(-1, 3)
    distance = ((points - first).unsqueeze(1) - taps).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    weights = torch.where(distance <= 1, near, far)
    sources = (first.unsqueeze(1) + taps).clamp(0, side - 1)
    return (weights.unsqueeze(2) * (sources.unsqueeze(2) == torch.arange(side))).sum(1)
