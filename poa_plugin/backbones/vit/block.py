"""The transformer block of elastic layers: it takes packed tokens, and saves little for the backward pass."""

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
from poa_plugin.elastic.layers import (
    ElasticLayerNorm,
    ElasticLinear,
    InputFunction,
    MultiInputBlock,
)


@dataclass(frozen=True, eq=False)
class ReadTokens:
    """The tokens that are read of a last block's output.

    Attributes:
        rows: (R,) their indices in the packed tokens.
        images: (R,) the index of the packed image that each belongs to.
    """

    rows: Tensor
    images: Tensor


def read_tokens(layout: Layout, patch_ids: Sequence[Tensor | None]) -> ReadTokens | None:
    """Return which tokens are read: class tokens, and patch tokens by index; None if all tokens are.

    Args:
        layout: of the packed tokens, class token first in each image.
        patch_ids: for each entry of the layout, see `CropBatch.patch_ids`.
    """
    if all(ids is None for ids in patch_ids):
        return None
    rows, images, first_row, first_image = [], [], 0, 0
    [device] = {ids.device for ids in patch_ids if ids is not None}
    for (count, n), ids in zip(layout, patch_ids, strict=True):
        if ids is None:
            row = torch.arange(count * n, device=device)
            rows.append(first_row + row)
            images.append(first_image + row // n)
        else:
            cls_image = torch.arange(count, device=device)
            image = torch.cat([cls_image, ids // (n - 1)])
            token = torch.cat([torch.zeros_like(cls_image), 1 + ids % (n - 1)])
            rows.append(first_row + image * n + token)
            images.append(first_image + image)
        first_row, first_image = first_row + count * n, first_image + count
    return ReadTokens(torch.cat(rows), torch.cat(images))


class ViTMultiInputBlock(MultiInputBlock, Block):  # type: ignore[misc]
    """A block that takes all sub-networks of a step in one call, the crop batches of each packed together."""

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
            layout: of the packed tokens, an entry for each crop batch.
            drop_paths: for each crop batch, this block's entry of `draw_drop_path`.
            read: the tokens that are read, in the sub-network's last block: the result is (R, D), these alone.
                All tokens are attended to; only those that are read go through projection and MLP.
        """
        pairs = [
            (None, None) if drop_path is None else drop_path.unbind(0) for drop_path in drop_paths
        ]
        drop_attn, drop_mlp = ([pair[branch] for pair in pairs] for branch in range(2))
        if read is not None:
            factors_attn, factors_mlp = (
                image_factors(layout, drop_path) for drop_path in (drop_attn, drop_mlp)
            )
            attended = self._attend(x, layout, drop_attn).index_select(0, read.rows)
            residual = _layer_scaled(self.attn.proj, attended, self.ls1)
            y = x.index_select(0, read.rows) + _image_scaled(residual, factors_attn, read.images)
            return y + _image_scaled(self.mlp_branch(y, layout), factors_mlp, read.images)
        x = add_packed_residual(x, self.attention_branch, layout, drop_attn)
        return add_packed_residual(x, self.mlp_branch, layout, drop_mlp)

    def attention_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what attention adds to packed (T, D) tokens; the norm's output is not stored."""
        attended = self._attention_parts(x, layout)
        return torch.cat([_layer_scaled(self.attn.proj, part, self.ls1) for part in attended])

    def mlp_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what the MLP adds to packed (T, D) tokens; outputs of norm and GELU are not stored."""
        hidden = self.mlp.fc1(x, input_function=self.norm2.sliced_fn(x.shape[-1]))
        return _layer_scaled(self.mlp.fc2, hidden, self.ls2, input_function=(F.gelu, ()))

    def _attention_parts(self, x: Tensor, layout: Layout) -> list[Tensor]:
        """Return the attention of packed (T, D) tokens before its projection, in parts of (T, D)."""
        attn, norm = self.attn, self.norm1.sliced_fn(x.shape[-1])
        qkv = attn.qkv(x, input_function=norm).unflatten(-1, (3, -1, attn.head_dim))
        return [part.flatten(1) for part in packed_attention(qkv, layout)]

    def _attend(self, x: Tensor, layout: Layout, drop_paths: Sequence[Tensor | None]) -> Tensor:
        """Return the (T, D) attention of packed tokens; zeros for images that batch subsets leave out."""
        if all(drop_path is None or drop_path.dtype != torch.long for drop_path in drop_paths):
            return torch.cat(self._attention_parts(x, layout))
        rows, kept_layout = kept_rows(layout, cast(Sequence[Tensor], drop_paths))
        attended = torch.cat(self._attention_parts(x[rows], kept_layout))
        return attended.new_zeros(len(x), attended.shape[1]).index_copy(0, rows, attended)


def _image_scaled(x: Tensor, factors: Tensor | None, images: Tensor) -> Tensor:
    """Return (R, D) tokens multiplied by the factors of their images."""
    return x if factors is None else x * factors[images].to(x.dtype).unsqueeze(-1)


def _layer_scaled(
    linear: nn.Linear,
    x: Tensor,
    layer_scale: nn.Module,
    input_function: InputFunction | None = None,
) -> Tensor:
    """Return `layer_scale(linear(input_function(x)))`, the scale folded into the weight.

    A weight times a scale of 1e-5 is below what float16 can hold: under float16 the outputs are scaled instead.
    """
    gamma = getattr(layer_scale, "gamma", None)
    device = x.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if gamma is None or half:
        return layer_scale(linear(x, input_function=input_function))
    width = cast(ElasticLinear, linear).fan_out(x.shape[-1])
    return linear(x, input_function=input_function, scale=slicing.leading(gamma, width))
