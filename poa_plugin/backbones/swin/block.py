"""The parts of Swin of elastic layers: packed tokens, and little that is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.backbones.attention import attention
from poa_plugin.backbones.drop_path import add_packed_residual
from poa_plugin.backbones.swin.plain import (
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    WindowAttention,
    gather_four,
)
from poa_plugin.backbones.swin.windows import MapLayout, Windows, relative_bias, split_maps
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayerNorm, MultiInputBlock


class ElasticWindowAttention(WindowAttention):
    """Attention of which a narrow input uses the leading heads."""

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
    """A block that takes all crop batches of a step in one call, those of one sub-network packed together."""

    attention = ElasticWindowAttention
    norm1: ElasticLayerNorm
    norm2: ElasticLayerNorm

    def run(self, x: Tensor, laid: Windows, drop_paths: Sequence[Tensor | None]) -> Tensor:
        """Map the packed (T, D) tokens of one sub-network's crop batches to (T, D).

        Args:
            x: tokens.
            laid: how they lie in windows under this block's shift.
            drop_paths: for each crop batch, this block's entry of `draw_drop_path`.
        """
        pairs = [
            (None, None) if drop_path is None else drop_path.unbind(0) for drop_path in drop_paths
        ]
        drop_attn, drop_mlp = ([pair[branch] for pair in pairs] for branch in range(2))
        sizes = tuple((images, h * w) for images, h, w in laid.layout)
        x = add_packed_residual(x, lambda y, _: self._attend_packed(y, laid), sizes, drop_attn)
        return add_packed_residual(x, lambda y, _: self._mlp_packed(y), sizes, drop_mlp)

    def _attend_packed(self, x: Tensor, laid: Windows) -> Tensor:
        """Return what attention adds to packed (T, D) tokens; norm and windows of it are not stored."""
        own = cast(ElasticWindowAttention, self.attn)
        norm, parameters = self.norm1.at(x.shape[-1])
        before = (lambda y, *p: laid.cut(norm(y, *p)), parameters)
        heads = x.shape[-1] // own.head_dim
        qkv = own.qkv(x, before=before).view(-1, laid.cells, 3, heads, own.head_dim)
        bias, parts = own.bias(heads), []
        for part, mask in zip(qkv.split(laid.counts), laid.masks, strict=True):
            q, k, v = part.unbind(2)
            parts.append(attention(q, k, v, bias if mask is None else bias + mask).flatten(2))
        return own.proj(laid.join(torch.cat(parts).flatten(0, 1)))

    def _mlp_packed(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to packed (T, D) tokens; norm and GELU are not stored."""
        hidden = self.mlp.fc1(x, before=self.norm2.at(x.shape[-1]))
        return self.mlp.fc2(hidden, before=(F.gelu, ()))


class SwinMultiInputMerging(MultiInputBlock, PatchMerging):  # type: ignore[misc]
    """Merging that takes all crop batches of a step in one call, those of one sub-network packed together."""

    norm: ElasticLayerNorm

    def run(self, x: Tensor, layout: MapLayout) -> Tensor:
        """Map packed (T, D) tokens to the packed tokens of the merged maps, (T', 2 D), see `PatchMerging`."""
        four = [gather_four(maps).flatten(0, 2) for maps in split_maps(x, layout)]
        merged = self.reduction(torch.cat(four), before=self.norm.at(4 * x.shape[-1]))
        return merged.to(x.dtype)


class ElasticPatchEmbed(PatchEmbed):
    """Patch embedding of which a narrow network keeps the leading channels, normalized among themselves."""

    def normalize(self, x: Tensor, width: int) -> Tensor:
        """Normalize the first `width` channels of (B, h, w, D)."""
        return self.norm(slicing.leading(x, width))
