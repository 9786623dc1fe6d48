"""Swin's modules of elastic layers: they take packed tokens, and save little for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.backbones.attention import attention, split_qkv, unpacked
from poa_plugin.backbones.drop_path import add_packed_residual
from poa_plugin.backbones.swin.plain import (
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    WindowAttention,
    space_to_depth,
)
from poa_plugin.backbones.swin.windows import MapLayout, PackedWindows, relative_bias
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayerNorm, MultiInputBlock


class ElasticWindowAttention(WindowAttention):
    """Window attention; a narrow input uses its leading heads."""

    def bias(self, heads: int) -> Tensor:
        """Return the (1, heads, N, N) biases of the leading heads."""
        table = slicing.leading(self.relative_position_bias_table, heads)
        return relative_bias(table, self.window)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`."""
        table = self.relative_position_bias_table
        heads = slicing.active_size(table.shape[1], width_ratio)
        return {"relative_position_bias_table": slicing.leading(table, heads)}


class SwinMultiInputBlock(MultiInputBlock, SwinBlock):  # type: ignore[misc]
    """A block that takes all sub-networks of a step in one call, the crop batches of each packed together."""

    attention = ElasticWindowAttention
    norm1: ElasticLayerNorm
    norm2: ElasticLayerNorm

    def run(self, x: Tensor, windows: PackedWindows, drop_paths: Sequence[Tensor | None]) -> Tensor:
        """Map the packed (T, D) tokens of one sub-network's crop batches to (T, D).

        Args:
            x: tokens.
            windows: their window partition under this block's shift.
            drop_paths: for each crop batch, this block's entry of `draw_drop_path`.
        """
        pairs = [
            (None, None) if drop_path is None else drop_path.unbind(0) for drop_path in drop_paths
        ]
        drop_attn, drop_mlp = ([pair[branch] for pair in pairs] for branch in range(2))
        sizes = tuple((images, h * w) for images, h, w in windows.layout)
        x = add_packed_residual(x, lambda y, _: self._attend_packed(y, windows), sizes, drop_attn)
        return add_packed_residual(x, lambda y, _: self._mlp_packed(y), sizes, drop_mlp)

    def _attend_packed(self, x: Tensor, windows: PackedWindows) -> Tensor:
        """Return what attention adds to packed (T, D) tokens; its normalized windows are not stored."""
        attn = cast(ElasticWindowAttention, self.attn)
        norm, parameters = self.norm1.sliced_fn(x.shape[-1])
        normalize_and_partition = (lambda y, *p: windows.partition(norm(y, *p)), parameters)
        heads = x.shape[-1] // attn.head_dim
        qkv = attn.qkv(x, input_function=normalize_and_partition)
        parts = split_qkv(qkv.view(-1, 3, heads, attn.head_dim), windows.window_layout)
        bias, attended = attn.bias(heads), []
        for (q, k, v), mask in zip(parts, windows.masks, strict=True):
            attended.append(attention(q, k, v, bias if mask is None else bias + mask).flatten(2))
        return attn.proj(windows.reverse(torch.cat(attended).flatten(0, 1)))

    def _mlp_packed(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to packed (T, D) tokens; outputs of norm and GELU are not stored."""
        hidden = self.mlp.fc1(x, input_function=self.norm2.sliced_fn(x.shape[-1]))
        return self.mlp.fc2(hidden, input_function=(F.gelu, ()))


class SwinMultiInputMerging(MultiInputBlock, PatchMerging):  # type: ignore[misc]
    """Merging that takes all sub-networks of a step in one call, the crop batches of each packed together."""

    norm: ElasticLayerNorm

    def run(self, x: Tensor, layout: MapLayout) -> Tensor:
        """Map packed (T, D) tokens to the packed tokens of the merged maps, (T', 2 D), see `PatchMerging`."""
        merged = torch.cat([space_to_depth(maps).flatten(0, 2) for maps in unpacked(x, layout)])
        merged = self.reduction(merged, input_function=self.norm.sliced_fn(4 * x.shape[-1]))
        return merged.to(x.dtype)


class ElasticPatchEmbed(PatchEmbed):
    """Patch embedding; a narrow network normalizes the leading channels alone."""

    def normalize(self, x: Tensor, width: int) -> Tensor:
        """Normalize the first `width` channels of (B, h, w, D)."""
        return self.norm(slicing.leading(x, width))
