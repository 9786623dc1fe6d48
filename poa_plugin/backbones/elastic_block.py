"""The transformer block of elastic layers: packed tokens, and little that is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones.attention import Layout, packed_attention
from poa_plugin.backbones.stochastic_depth import add_packed_residual
from poa_plugin.backbones.vit import Block
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import Before, ElasticLayerNorm, ElasticLinear, Lockstep


class LockstepBlock(Lockstep, Block):  # type: ignore[misc]
    """A block that takes all streams of a step in one call, those of one sub-network packed together."""

    norm1: ElasticLayerNorm
    norm2: ElasticLayerNorm

    def run(self, x: Tensor, layout: Layout, keeps: Sequence[Tensor | None]) -> Tensor:
        """Map the packed (T, D) tokens of one sub-network's streams to (T, D).

        Args:
            x: tokens.
            layout: how the streams' images lie in them.
            keeps: for each stream, this block's entry of `draw_drop_path`.
        """
        pairs = [(None, None) if keep is None else keep.unbind(0) for keep in keeps]
        keep_attn, keep_mlp = ([pair[branch] for pair in pairs] for branch in range(2))
        x = add_packed_residual(x, self.attention_branch, layout, keep_attn)
        return add_packed_residual(x, self.mlp_branch, layout, keep_mlp)

    def attention_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what attention adds to packed (T, D) tokens; what the norm puts out is not stored."""
        attn, norm = self.attn, self.norm1.at(x.shape[-1])
        qkv = attn.qkv(x, before=norm).unflatten(-1, (3, -1, attn.head_dim))
        parts = packed_attention(qkv, layout)
        return torch.cat([_scaled(attn.proj, part.flatten(1), self.ls1) for part in parts])

    def mlp_branch(self, x: Tensor, layout: Layout) -> Tensor:
        """Return what the MLP adds to packed (T, D) tokens; norm and GELU are not stored."""
        hidden = self.mlp.fc1(x, before=self.norm2.at(x.shape[-1]))
        return _scaled(self.mlp.fc2, hidden, self.ls2, before=(F.gelu, ()))


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
