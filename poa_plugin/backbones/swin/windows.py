"""Shifted windows as in mmdetection's Swin: a map is padded, then rolled, then cut into windows.

Padded cells attend like others. Cells that rolling brought side by side from opposite borders do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = -100.0
"""What is added to the logits of cells that are no neighbors (Swin, mmdetection `swin.py`)."""

MapLayout = tuple[tuple[int, int, int], ...]
"""How maps of several sizes lie packed in one row of tokens: (images, height, width), in order."""


def padded(size: int, window: int) -> int:
    """Return the next multiple of the window."""
    return size + -size % window


def partition(x: Tensor, window: int, shift: int, value: float = 0) -> Tensor:
    """Cut (B, h, w, C) maps into (B * windows, window * window, C), padded right and below with `value`."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window), value=value)
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    rows, columns = padded(h, window) // window, padded(w, window) // window
    x = x.view(b, rows, window, columns, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def put_together(windows: Tensor, window: int, shift: int, size: tuple[int, int]) -> Tensor:
    """Undo `partition` for (height, width) maps: (B, h, w, C)."""
    h, w = (padded(side, window) for side in size)
    x = windows.view(-1, h // window, w // window, window, window, windows.shape[-1])
    x = x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, : size[0], : size[1]]


def shift_mask(size: tuple[int, int], window: int, shift: int, like: Tensor) -> Tensor:
    """Return what is added to the logits within each window of a shifted map: (windows, N, N).

    Args:
        size: height and width of the map before it is padded.
        window, shift: in cells.
        like: gives type and device.
    """
    rows, columns = (_region(padded(side, window), window, shift, like.device) for side in size)
    regions = 3 * rows.unsqueeze(1) + columns
    own = partition(regions[None, :, :, None], window, 0).squeeze(-1)
    apart = own.unsqueeze(1) != own.unsqueeze(2)
    return apart.to(like.dtype) * BORDER


def _region(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return which of three bands each row of a rolled map is in: before, in the last window, or rolled."""
    at = torch.arange(size, device=device)
    return (at >= size - window).long() + (at >= size - shift).long()


def relative_positions(window: int, device: torch.device) -> Tensor:
    """Return where each pair of a window's cells stands in the table of biases: (N, N).

    Rows of the table are offsets from one cell to another, row offset first (timm, Swin).
    """
    at = torch.arange(window, device=device)
    offset = at.unsqueeze(1) - at + window - 1
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.reshape(window * window, window * window)


def relative_bias(table: Tensor, window: int) -> Tensor:
    """Look the biases of all pairs up in a ((2 * window - 1) ** 2, H) table: (1, H, N, N)."""
    index = relative_positions(window, table.device)
    return F.embedding(index, table).permute(2, 0, 1).unsqueeze(0)


@dataclass(frozen=True, eq=False)
class Order:
    """Which row of the other side each row is; where there is none, `empty` lists the row."""

    rows: Tensor
    empty: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """Return the rows of (M, C) in this order: (N, C), zeros where there is none."""
        out = x.index_select(0, self.rows)
        return out if self.empty is None else out.index_fill(0, self.empty, 0)


@dataclass(frozen=True, eq=False)
class Windows:
    """How the packed maps of a stage lie in windows, and back.

    Attributes:
        layout: of the packed tokens.
        there, back: from tokens to the rows of windows, and from those to tokens.
        counts: the windows of each entry of the layout.
        masks: for each entry (windows, 1, N, N), added to the logits, or None where nothing is shifted.
        cells: of a window.
    """

    layout: MapLayout
    there: Order
    back: Order
    counts: list[int]
    masks: list[Tensor | None]
    cells: int

    def cut(self, x: Tensor) -> Tensor:
        """Map packed (T, C) tokens to the (windows * cells, C) rows of windows."""
        return _reorder(x, self.there, self.back)

    def join(self, rows: Tensor) -> Tensor:
        """Map the rows of windows to packed tokens."""
        return _reorder(rows, self.back, self.there)


def windows(layout: MapLayout, window: int, shift: int, like: Tensor) -> Windows:
    """Lay the packed maps of a stage into windows, each map by itself.

    Args:
        layout: of the packed tokens.
        window, shift: in cells.
        like: gives type and device of the mask.
    """
    # Fake tensors, and those of a compiler, belong to their trace: they must not outlive it.
    lasting = type(like) is Tensor and not torch.compiler.is_compiling()
    indices_of = _cached_indices if lasting else _indices
    indices = indices_of(layout, window, shift, like.device, like.dtype)
    masks = [
        None if mask is None else mask.repeat(images, 1, 1).unsqueeze(1)
        for mask, (images, _, _) in zip(indices.masks, layout, strict=True)
    ]
    return Windows(layout, indices.there, indices.back, indices.counts, masks, window * window)


@dataclass(frozen=True, eq=False)
class _Indices:
    """What of `Windows` is the same in every pass; `masks` are those of one image, (windows, N, N)."""

    there: Order
    back: Order
    counts: list[int]
    masks: list[Tensor | None]


@torch.inference_mode(False)
@torch.no_grad()
def _indices(
    layout: MapLayout, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> _Indices:
    like = torch.empty(0, device=device, dtype=dtype)
    start, rows = 0, []  # on the CPU: what is read off them would have to be waited for on a GPU
    masks: list[Tensor | None] = []
    for images, h, w in layout:
        at = torch.arange(start, start + images * h * w, device="cpu").view(images, h, w, 1)
        rows.append(partition(at, window, shift, value=-1).squeeze(-1))
        start += images * h * w
        masks.append(shift_mask((h, w), window, shift, like) if shift else None)
    token = torch.cat(rows).flatten()
    empty, filled = (token < 0).nonzero().flatten(), (token >= 0).nonzero().flatten()
    back = torch.empty(start, dtype=torch.long, device="cpu")
    back[token[filled]] = filled
    there = Order(token.clamp(min=0).to(device), empty.to(device) if len(empty) else None)
    return _Indices(there, Order(back.to(device)), [len(r) for r in rows], masks)


_cached_indices = lru_cache(maxsize=32)(_indices)
"""A step asks for 16 at most: two layouts (teacher, students), four stages, with and without a shift."""


def _reorder(x: Tensor, there: Order, back: Order) -> Tensor:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return cast(Tensor, _Reorder.apply(x, there, back))
    return there.of(x)


class _Reorder(torch.autograd.Function):
    """A change of order whose gradient is the way back: each row has one place, nothing is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Order, back: Order) -> Tensor:
        ctx.back = back
        return there.of(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back.of(grad), None, None


def split_maps(x: Tensor, layout: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """Return the (images, height, width, C) maps that lie packed in (T, C) tokens."""
    parts = x.split([images * h * w for images, h, w in layout])
    return [part.unflatten(0, size) for part, size in zip(parts, layout, strict=True)]
