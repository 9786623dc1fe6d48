"""The transformer block of elastic layers: packed tokens, and little that is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones.attention import Layout, packed_attention
from poa_plugin.backbones.drop_path import add_packed_residual, image_factors, kept_rows
from poa_plugin.backbones.vit.plain import Block
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import Before, ElasticLayerNorm, ElasticLinear, MultiInputBlock


@dataclass(frozen=True, eq=False)
class ReadTokens:
    """The tokens that are read of what a last block puts out.

    Attributes:
        rows: (R,) their places among the packed tokens.
        images: (R,) the packed image that each belongs to.
    """

    rows: Tensor
    images: Tensor


def read_tokens(layout: Layout, patch_ids: Sequence[Tensor | None]) -> ReadTokens | None:
    """Return the class tokens of packed images and the patch tokens that are read; None if all tokens are.

    Args:
        layout: of the packed tokens, class token first in each image.
        patch_ids: for each entry of the layout, see `CropBatch.patch_ids`.
    """
    if all(ids is None for ids in patch_ids):
        return None
    rows, images, token, image = [], [], 0, 0
    [device] = {ids.device for ids in patch_ids if ids is not None}
    for (count, n), ids in zip(layout, patch_ids, strict=True):
        if ids is None:
            at = torch.arange(count * n, device=device)
            rows.append(token + at)
            images.append(image + at // n)
        else:
            each = torch.arange(count, device=device)
            of = torch.cat([each, ids // (n - 1)])
            place = torch.cat([torch.zeros_like(each), 1 + ids % (n - 1)])
            rows.append(token + of * n + place)
            images.append(image + of)
        token, image = token + count * n, image + count
    return ReadTokens(torch.cat(rows), torch.cat(images))


class ViTMultiInputBlock(MultiInputBlock, Block):  # type: ignore[misc]
    """A block that takes all crop batches of a step in one call, those of one sub-network packed together."""

    norm1: ElasticLayerNorm
    norm2: ElasticLayerNorm

    def run(
        self,
        x: Tensor,
        layout: Layout,
        drop_paths: Sequence[Tensor | None],
        read: ReadTokens | None = None,
    ) -> Tensor:
        """Map the packed (T, D) tokens of one sub-network's crop batches to (T, D).

        Args:
            x: tokens.
            layout: how the crop batches' images lie in them.
            drop_paths: for each crop batch, this block's entry of `draw_drop_path`.
            read: of the sub-network's last block, the tokens that are read: the result is (R, D), these
                alone. All tokens are attended to; only those that are read go through projection and MLP.
        """
        pairs = [
            (None, None) if drop_path is None else drop_path.unbind(0) for drop_path in drop_paths
        ]
        drop_attn, drop_mlp = ([pair[branch] for pair in pairs] for branch in range(2))
        if read is not None:
            of_attn, of_mlp = (
                image_factors(layout, drop_path) for drop_path in (drop_attn, drop_mlp)
            )
            attended = self._attend(x, layout, drop_attn).index_select(0, read.rows)
            residual = _scaled(self.attn.proj, attended, self.ls1)
            y = x.index_select(0, read.rows) + _times(residual, of_attn, read.images)
            return y + _times(self.mlp_branch(y, layout), of_mlp, read.images)
        x = add_packed_residual(x, self.attention_branch, layout, drop_attn)
        return add_packed_residual(x, self.mlp_branch, layout, drop_mlp)

    def attention_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what attention adds to packed (T, D) tokens; what the norm puts out is not stored."""
        parts = self._attention_parts(x, layout)
        return torch.cat([_scaled(self.attn.proj, part, self.ls1) for part in parts])

    def mlp_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what the MLP adds to packed (T, D) tokens; norm and GELU are not stored."""
        hidden = self.mlp.fc1(x, before=self.norm2.at(x.shape[-1]))
        return _scaled(self.mlp.fc2, hidden, self.ls2, before=(F.gelu, ()))

    def _attention_parts(self, x: Tensor, layout: Layout) -> list[Tensor]:
        """Return the attention of packed (T, D) tokens before its projection, in parts of (T, D)."""
        attn, norm = self.attn, self.norm1.at(x.shape[-1])
        qkv = attn.qkv(x, before=norm).unflatten(-1, (3, -1, attn.head_dim))
        return [part.flatten(1) for part in packed_attention(qkv, layout)]

    def _attend(self, x: Tensor, layout: Layout, drop_paths: Sequence[Tensor | None]) -> Tensor:
        """Return the (T, D) attention of packed tokens; zeros for images that batch subsets leave out."""
        if all(drop_path is None or drop_path.dtype != torch.long for drop_path in drop_paths):
            return torch.cat(self._attention_parts(x, layout))
        rows, few = kept_rows(layout, cast(Sequence[Tensor], drop_paths))
        attended = torch.cat(self._attention_parts(x[rows], few))
        return attended.new_zeros(len(x), attended.shape[1]).index_copy(0, rows, attended)


def _times(x: Tensor, factors: Tensor | None, images: Tensor) -> Tensor:
    """Return (R, D) tokens multiplied by their images' factors."""
    return x if factors is None else x * factors[images].to(x.dtype).unsqueeze(-1)


def _scaled(
    linear: nn.Linear, x: Tensor, layer_scale: nn.Module, before: Before | None = None
) -> Tensor:
    """Return `layer_scale(linear(before(x)))`, the scale folded into the weight.

    A weight times a scale of 1e-5 is below what float16 can hold: there the outputs are scaled.
    """
    gamma = getattr(layer_scale, "gamma", None)
    device = x.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if gamma is None or half:
        return layer_scale(linear(x, before=before))
    width = cast(ElasticLinear, linear).fan_out(x.shape[-1])
    return linear(x, before=before, scale=slicing.leading(gamma, width))
