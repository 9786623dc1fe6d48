"""The vision transformer, from one definition: built of ordinary layers here, of elastic ones in `vit.elastic`.

Parameter names are timm's and DINOv2's. Nothing in this file is elastic: widths are read off tensors,
and which layers are used is the class attribute `layers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones.attention import attention
from poa_plugin.backbones.base import Features, PlainNetwork
from poa_plugin.backbones.drop_path import add_residual, draw_drop_path
from poa_plugin.backbones.inputs import check_images
from poa_plugin.backbones.mlp import Mlp
from poa_plugin.backbones.option_checks import check_patches
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


class PatchEmbed(nn.Module):
    """Split images into square patches and project each to a token."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        size = shape.patch_size
        self.proj = layers.conv(shape.in_chans, shape.width, size, size, fixed_input=True)

    def forward(self, images: Tensor, *width: int) -> Tensor:
        """Map (B, C, H, W) images to (B, N, D) tokens, row by row.

        Raises:
            UserError: the images do not fit, or a side is not a multiple of the patch size.
        """
        check_images(images, self.proj.in_channels, self.proj.weight.dtype)
        check_patches(images.shape[-2:], self.proj.kernel_size[0])
        return self.proj(images, *width).flatten(2).transpose(1, 2)


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


class VisionTransformer(PlainNetwork):
    """An ordinary vision transformer (timm's parameter names, DINOv2's outputs).

    Args:
        shape: all sizes.
        drop_path_rates: the stochastic-depth rate of each block, used in training mode.
    """

    layers: type[PlainLayers] = PlainLayers
    block: type[Block] = Block

    def __init__(self, shape: ViTShape, drop_path_rates: Sequence[float] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.drop_path_rates = list(drop_path_rates or [0.0] * shape.depth)
        self.grid_size = shape.image_size // shape.patch_size
        self.patch_embed = PatchEmbed(shape, self.layers)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, shape.width))
        self.blocks = nn.ModuleList(self.block(shape, self.layers) for _ in range(shape.depth))
        self.norm = self.layers.layer_norm(shape.width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the initial weights (DINOv2 `vision_transformer.py`)."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Features:
        """Return DINOv2's outputs for (B, C, H, W) images of any size the patches divide."""
        x = self.stem(images)
        for block, drop_path in zip(self.blocks, self.draw_drop_path(images.shape[0]), strict=True):
            x = block(x, drop_path)
        return self.output(x)

    def path(self) -> list[str]:
        """See `PlainNetwork.path`."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, 1 + N, D) tokens, class token first, positions added."""
        return add_cls_and_position(
            self.patch_embed(images), self.cls_token, self.pos_embed, self._grid(images)
        )

    def output(self, x: Tensor) -> Features:
        """See `PlainNetwork.output`."""
        return outputs(x, self.norm(x))

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return the tokens after the last `n` blocks, or after the blocks at the indices `n`.

        DINOv2's method of this name: (B, N, D) patch tokens for each block, as (B, D, h, w) maps if
        `reshape`, paired with (B, D) class tokens if `return_class_token`, through the final norm
        if `norm`.
        """
        indices, x, taken = block_indices(n, len(self.blocks)), self.stem(images), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in indices:
                taken[i] = self.norm(x) if norm else x
        return intermediate(
            [taken[i] for i in indices], images, self.shape.patch_size, reshape, return_class_token
        )

    def draw_drop_path(
        self, batch: int, generator: torch.Generator | None = None
    ) -> list[Tensor | None]:
        """Draw stochastic depth of every block for a forward pass over `batch` images."""
        rates = self.drop_path_rates if self.training else [0.0] * len(self.blocks)
        return draw_drop_path(rates, batch, self.pos_embed.device, generator)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        return height // self.shape.patch_size, width // self.shape.patch_size


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


def outputs(x_prenorm: Tensor, x_norm: Tensor, masks: Tensor | None = None) -> Features:
    """Name the (B, 1 + N, D) tokens before and after the final norm as DINOv2 does."""
    return {
        "x_norm_clstoken": x_norm[:, 0],
        "x_norm_patchtokens": x_norm[:, 1:],
        "x_prenorm": x_prenorm,
        "masks": masks,
    }


def _layer_scale(shape: ViTShape, layers: type[PlainLayers]) -> nn.Module:
    if shape.layerscale is None:
        return nn.Identity()
    return layers.layer_scale(shape.width, shape.layerscale)


def intermediate(
    tokens: list[Tensor], images: Tensor, patch: int, reshape: bool, return_class_token: bool
) -> tuple[Any, ...]:
    """Shape (B, 1 + N, D) tokens of several blocks as `get_intermediate_layers` returns them."""
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    patches = [x[:, 1:] for x in tokens]
    if reshape:
        patches = [x.transpose(1, 2).unflatten(2, grid).contiguous() for x in patches]
    if return_class_token:
        return tuple(zip(patches, [x[:, 0] for x in tokens], strict=True))
    return tuple(patches)


def block_indices(n: int | Sequence[int], depth: int) -> list[int]:
    """Return the indices of the last `n` blocks, or the indices in `n`.

    Raises:
        ValueError: there are no such blocks.
    """
    indices = list(range(depth - n, depth)) if isinstance(n, int) else list(n)
    if any(not 0 <= i < depth for i in indices):
        raise ValueError(f"A network of {depth} blocks has no blocks {indices}.")
    return indices
