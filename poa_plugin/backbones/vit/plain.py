"""The vision transformer, from one definition: built of ordinary layers here, of elastic ones in `vit.elastic`.

Parameter names are timm's and DINOv2's. Nothing in this file is elastic: widths are read off tensors,
and which layers are used is the class attribute `layers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones.attention import attention
from poa_plugin.backbones.base import Features
from poa_plugin.backbones.drop_path import add_residual
from poa_plugin.backbones.isotropic.plain import IsotropicNetwork
from poa_plugin.backbones.mlp import Mlp
from poa_plugin.backbones.vit.position_graph import positions_of_any_grid
from poa_plugin.elastic.layers import PlainLayers


@dataclass(frozen=True)
class ViTShape:
    """Constructor arguments that an ordinary and an elastic vision transformer have in common."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    head_dim: int
    hidden: int
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    layerscale: float | None = None
    in_chans: int = 3


class Attention(nn.Module):
    """Multi-head self-attention; the number of heads follows the width of the tokens."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        width = shape.width
        self.head_dim = shape.head_dim
        self.qkv = layers.linear(width, 3 * width, shape.qkv_bias, groups=3)
        self.proj = layers.linear(width, width, shape.proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
        return self.proj(attention(q, k, v).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale and stochastic depth."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(shape.width, eps=1e-6)
        self.attn = Attention(shape, layers)
        self.ls1 = _layer_scale(shape, layers)
        self.norm2 = layers.layer_norm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape.width, shape.hidden, shape.ffn_bias, layers)
        self.ls2 = _layer_scale(shape, layers)

    def forward(self, x: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D).

        Args:
            x: tokens.
            drop_path: this block's entry of `draw_drop_path`.
        """
        drop_attn, drop_mlp = (None, None) if drop_path is None else drop_path.unbind(0)
        x = add_residual(x, lambda y: self.ls1(self.attn(self.norm1(y))), drop_attn)
        return add_residual(x, lambda y: self.ls2(self.mlp(self.norm2(y))), drop_mlp)


class VisionTransformer(IsotropicNetwork):
    """An ordinary vision transformer (timm's parameter names, DINOv2's outputs).

    Args:
        shape: all sizes.
        drop_path_rates: the stochastic-depth rate of each block, used in training mode.
    """

    shape: ViTShape
    block: type[nn.Module] = Block

    def add_parameters(self) -> None:
        """Add the class token and the positions."""
        width = self.shape.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, width))

    def init_weights(self) -> None:
        """Draw the initial weights (DINOv2 `vision_transformer.py`)."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        super().init_weights()

    def embed(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (B, 1 + N, D) tokens, class token first, positions added."""
        return add_cls_and_position(patches, self.cls_token, self.pos_embed, grid)

    def name_tokens(
        self, x_prenorm: Tensor, x_norm: Tensor, masks: Tensor | None = None
    ) -> Features:
        """Name the (B, 1 + N, D) tokens before and after the final norm as DINOv2 does."""
        return {
            "x_norm_clstoken": x_norm[:, 0],
            "x_norm_patchtokens": x_norm[:, 1:],
            "x_prenorm": x_prenorm,
            "masks": masks,
        }


def add_cls_and_position(
    patches: Tensor, cls_token: Tensor, pos_embed: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Prepend the class token to (B, N, D) patches and add positions; (B, 1 + N, D).

    Patches of lower precision, as under autocast, are promoted: the residual stream has the precision
    of the parameters.
    """
    positions = interpolate_position(pos_embed, grid)
    return torch.cat([cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + positions


def interpolate_position(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a (1, 1 + M * M, D) table to (1, 1 + h * w, D).

    Bicubic, not antialiased, with scale factors (n + 0.1) / M as in DINOv2: asking for the output
    size in place of the factor would give other numbers.
    """
    if torch.onnx.is_in_onnx_export():
        return positions_of_any_grid(pos_embed, grid)
    grid = (int(grid[0]), int(grid[1]))  # tensors while FLOPs are counted
    side = math.isqrt(int(pos_embed.shape[1]) - 1)
    if grid == (side, side):
        return pos_embed
    table = pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resized = F.interpolate(table, scale_factor=factors, mode="bicubic")
    if resized.shape[-2:] != grid:
        raise RuntimeError(f"positions were resized to {tuple(resized.shape[-2:])}, not {grid}")
    resized = resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :1], resized], dim=1)


def _layer_scale(shape: ViTShape, layers: type[PlainLayers]) -> nn.Module:
    if shape.layerscale is None:
        return nn.Identity()
    return layers.layer_scale(shape.width, shape.layerscale)
