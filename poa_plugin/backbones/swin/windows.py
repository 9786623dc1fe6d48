"""Shifted windows as in mmdetection's Swin: a map is padded, then rolled, then split into windows.

Padded cells attend like others. Cells that rolling brought side by side from opposite borders do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.backbones.attention import Layout

BORDER = -100.0
"""Added to the logits of cells that are not neighbors (Swin, mmdetection `swin.py`)."""

MapLayout = tuple[tuple[int, int, int], ...]
"""Maps of several sizes packed into one row of tokens: (images, height, width), in order."""


def padded(size: int, window: int) -> int:
    """Return the next multiple of the window."""
    return size + -size % window


def window_partition(x: Tensor, window: int, shift: int, value: float = 0) -> Tensor:
    """Split (B, h, w, C) maps, padded right and below with `value`, into (B * windows, window * window, C)."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window), value=value)
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    rows, columns = padded(h, window) // window, padded(w, window) // window
    x = x.view(b, rows, window, columns, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def window_reverse(windows: Tensor, window: int, shift: int, size: tuple[int, int]) -> Tensor:
    """Undo `window_partition` for (height, width) maps: (B, h, w, C)."""
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
    regions = window_partition(regions[None, :, :, None], window, 0).squeeze(-1)
    separate = regions.unsqueeze(1) != regions.unsqueeze(2)
    return separate.to(like.dtype) * BORDER


def _region(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the band of each row of a rolled map: 0 before the last window, 1 in it, 2 if it was rolled."""
    row = torch.arange(size, device=device)
    return (row >= size - window).long() + (row >= size - shift).long()


def relative_positions(window: int, device: torch.device) -> Tensor:
    """Return the row in the table of biases of each pair of a window's cells: (N, N).

    Rows of the table are offsets from one cell to another, row offset first (timm, Swin).
    """
    cell = torch.arange(window, device=device)
    offset = cell.unsqueeze(1) - cell + window - 1
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.reshape(window * window, window * window)


def relative_bias(table: Tensor, window: int) -> Tensor:
    """Look the biases of all pairs up in a ((2 * window - 1) ** 2, H) table: (1, H, N, N)."""
    index = relative_positions(window, table.device)
    return F.embedding(index, table).permute(2, 0, 1).unsqueeze(0)


@dataclass(frozen=True, eq=False)
class RowIndex:
    """The source row of each row; rows listed in `empty` have none."""

    rows: Tensor
    empty: Tensor | None = None

    def select(self, x: Tensor) -> Tensor:
        """Return the (N, C) source rows of (M, C), zeros where there is none."""
        out = x.index_select(0, self.rows)
        return out if self.empty is None else out.index_fill(0, self.empty, 0)


@dataclass(frozen=True, eq=False)
class PackedWindows:
    """Window partition of the packed maps of a stage, and its inverse.

    Attributes:
        layout: of the packed tokens.
        index: for each row of the windows, its token.
        inverse_index: for each token, its row in the windows.
        window_layout: of their windows, (windows, cells) for each entry of the layout.
        masks: for each entry (windows, 1, N, N), added to the logits, or None where nothing is shifted.
    """

    layout: MapLayout
    index: RowIndex
    inverse_index: RowIndex
    window_layout: Layout
    masks: list[Tensor | None]

    def partition(self, x: Tensor) -> Tensor:
        """Map packed (T, C) tokens to the (windows * cells, C) rows of windows."""
        return _reorder(x, self.index, self.inverse_index)

    def reverse(self, rows: Tensor) -> Tensor:
        """Map the rows of windows to packed tokens."""
        return _reorder(rows, self.inverse_index, self.index)


def packed_windows(layout: MapLayout, window: int, shift: int, like: Tensor) -> PackedWindows:
    """Partition the packed maps of a stage into windows, each map by itself.

    Args:
        layout: of the packed tokens.
        window, shift: in cells.
        like: gives type and device of the mask.
    """
    # Fake tensors, and those of a compiler, belong to their trace: they must not outlive it.
    cacheable = type(like) is Tensor and not torch.compiler.is_compiling()
    make_tables = _cached_window_tables if cacheable else _window_tables
    tables = make_tables(layout, window, shift, like.device, like.dtype)
    masks = [
        None if mask is None else mask.repeat(images, 1, 1).unsqueeze(1)
        for mask, (images, _, _) in zip(tables.masks, layout, strict=True)
    ]
    return PackedWindows(layout, tables.index, tables.inverse_index, tables.window_layout, masks)


@dataclass(frozen=True, eq=False)
class _WindowTables:
    """The part of `PackedWindows` that is the same in every pass; a mask is one image's, (windows, N, N)."""

    index: RowIndex
    inverse_index: RowIndex
    window_layout: Layout
    masks: list[Tensor | None]


@torch.inference_mode(False)
@torch.no_grad()
def _window_tables(
    layout: MapLayout, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> _WindowTables:
    like = torch.empty(0, device=device, dtype=dtype)
    # On the CPU: reading sizes off these tensors would wait for a GPU.
    n_tokens, windows_of_entry = 0, []
    masks: list[Tensor | None] = []
    for images, h, w in layout:
        token = torch.arange(n_tokens, n_tokens + images * h * w, device="cpu")
        maps = token.view(images, h, w, 1)
        windows_of_entry.append(window_partition(maps, window, shift, value=-1).squeeze(-1))
        n_tokens += images * h * w
        masks.append(shift_mask((h, w), window, shift, like) if shift else None)
    token = torch.cat(windows_of_entry).flatten()
    empty, filled = (token < 0).nonzero().flatten(), (token >= 0).nonzero().flatten()
    inverse = torch.empty(n_tokens, dtype=torch.long, device="cpu")
    inverse[token[filled]] = filled
    index = RowIndex(token.clamp(min=0).to(device), empty.to(device) if len(empty) else None)
    window_layout = tuple((len(windows), window * window) for windows in windows_of_entry)
    return _WindowTables(index, RowIndex(inverse.to(device)), window_layout, masks)


_cached_window_tables = lru_cache(maxsize=32)(_window_tables)
"""A step asks for 16 at most: two layouts (teacher, students), four stages, with and without a shift."""


def _reorder(x: Tensor, index: RowIndex, inverse_index: RowIndex) -> Tensor:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return cast(Tensor, _Reorder.apply(x, index, inverse_index))
    return index.select(x)


class _Reorder(torch.autograd.Function):
    """A selection of rows whose gradient is the inverse selection: no row has two sources to add up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: RowIndex, inverse_index: RowIndex) -> Tensor:
        ctx.inverse_index = inverse_index
        return index.select(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.inverse_index.select(grad), None, None
