"""The Swin transformer, from one definition: built of ordinary layers here, of elastic ones in `swin.elastic`.

Parameter names are timm's. Windows are mmdetection's: a map is padded, then rolled; the shift is the
block's, on maps of any size (POA `swin_transformer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones import staged
from poa_plugin.backbones.attention import attention
from poa_plugin.backbones.base import Features, PlainNetwork
from poa_plugin.backbones.drop_path import add_residual
from poa_plugin.backbones.inputs import check_images
from poa_plugin.backbones.intermediate import Layer, layer_indices, layer_of
from poa_plugin.backbones.mlp import Mlp
from poa_plugin.backbones.option_checks import check_patches
from poa_plugin.backbones.swin.windows import (
    relative_bias,
    shift_mask,
    window_partition,
    window_reverse,
)
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import PlainLayers
from poa_plugin.elastic.norms import normalize


@dataclass(frozen=True)
class SwinShape:
    """Constructor arguments that an ordinary and an elastic Swin have in common.

    Attributes:
        image_size: the side of the images in pixels that the network was trained on.
        patch_size: pixels.
        width: channels of the first stage; each further stage has twice as many.
        stem_width: channels of the patch embedding and its norm; the blocks get the first `width`.
        shifts: the shift of every block, by stage, in cells.
        head_dim: channels of an attention head, in all stages.
        window: cells of a side.
        hidden: units of an MLP in the first stage.
        qkv_bias: whether queries, keys and values have biases.
        ibot_scale_factor: how often, in each direction, the last map is upsampled to give the patch tokens.
        in_chans: channels of an image.
    """

    image_size: int
    patch_size: int
    width: int
    stem_width: int
    shifts: Sequence[Sequence[int]]
    head_dim: int
    window: int
    hidden: int
    qkv_bias: bool = True
    ibot_scale_factor: int = 2
    in_chans: int = 3


class PatchEmbed(nn.Module):
    """Split images into square patches, project each to a token, normalize."""

    def __init__(self, shape: SwinShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        patch, width = shape.patch_size, shape.stem_width
        self.proj = layers.conv(shape.in_chans, width, patch, patch, fixed_input=True)
        self.norm = layers.layer_norm(width)

    def forward(self, images: Tensor, width: int) -> Tensor:
        """Map (B, C, H, W) images to (B, h, w, width) maps.

        Raises:
            UserError: the images do not fit, or a side is not a multiple of the patch size.
        """
        return self.normalize(self.project(images), width)

    def project(self, images: Tensor, *width: int) -> Tensor:
        """Map images to (B, h, w, D) maps that are not yet normalized."""
        check_images(images, self.proj.in_channels, self.proj.weight.dtype)
        check_patches(images.shape[-2:], self.proj.kernel_size[0])
        return self.proj(images, *width).permute(0, 2, 3, 1)

    def normalize(self, x: Tensor, width: int) -> Tensor:
        """Normalize over all channels of (B, h, w, D) and keep the first `width`."""
        return slicing.leading(normalize(self.norm, x), width)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a bias for each offset between two cells."""

    def __init__(self, shape: SwinShape, width: int, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.head_dim, self.window = shape.head_dim, shape.window
        self.qkv = layers.linear(width, 3 * width, shape.qkv_bias, groups=3)
        self.proj = layers.linear(width, width)
        offsets, heads = (2 * shape.window - 1) ** 2, width // shape.head_dim
        self.relative_position_bias_table = nn.Parameter(self.qkv.weight.new_zeros(offsets, heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B * windows, N, D) to the same, under a (windows, N, N) mask."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
        bias = relative_bias(self.relative_position_bias_table, self.window)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        return self.proj(attention(q, k, v, bias).flatten(2))


class SwinBlock(nn.Module):
    """Pre-norm transformer block whose attention is within shifted windows."""

    attention: type[WindowAttention] = WindowAttention

    def __init__(self, shape: SwinShape, stage: int, shift: int, layers: type[PlainLayers]) -> None:
        super().__init__()
        width = shape.width * 2**stage
        self.window, self.shift = shape.window, shift
        self.norm1 = layers.layer_norm(width)
        self.attn = self.attention(shape, width, layers)
        self.norm2 = layers.layer_norm(width)
        self.mlp = Mlp(width, shape.hidden * 2**stage, True, layers)

    def forward(self, x: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Map (B, h, w, D) to (B, h, w, D).

        Args:
            x: maps.
            drop_path: this block's entry of `draw_drop_path`.
        """
        drop_attn, drop_mlp = (None, None) if drop_path is None else drop_path.unbind(0)
        x = add_residual(x, self._attend, drop_attn)
        return add_residual(x, lambda y: self.mlp(self.norm2(y)), drop_mlp)

    def _attend(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        mask = shift_mask(size, self.window, self.shift, x) if self.shift else None
        windows = window_partition(self.norm1(x), self.window, self.shift)
        return window_reverse(self.attn(windows, mask), self.window, self.shift, size)


class PatchMerging(nn.Module):
    """Merge 2 x 2 cells into one of twice as many channels."""

    def __init__(self, width: int, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.norm = layers.layer_norm(4 * width, groups=4)
        self.reduction = layers.linear(4 * width, 2 * width, bias=False, in_groups=4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, D) to (B, ceil(h / 2), ceil(w / 2), 2 D), of the same precision under autocast too."""
        return self.reduction(self.norm(space_to_depth(x))).to(x.dtype)


def space_to_depth(x: Tensor) -> Tensor:
    """Concatenate the channels of 2 x 2 cells: (B, h, w, D) to (B, ceil(h / 2), ceil(w / 2), 4 D).

    The order is timm's and the original's: (0, 0), (1, 0), (0, 1), (1, 1). Odd sides are padded with zeros.
    """
    b, h, w, d = x.shape
    x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
    x = x.view(b, (h + 1) // 2, 2, (w + 1) // 2, 2, d)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


class Stage(nn.Module):
    """The blocks of one width, after the merging that leads to it; the first stage has none."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)


class SwinTransformer(PlainNetwork):
    """An ordinary Swin transformer (timm's parameter names, DINOv2's outputs).

    The class token is the mean over the last stage's map after the final norm.

    Args:
        shape: all sizes.
    """

    layers_of: type[PlainLayers] = PlainLayers
    block: type[SwinBlock] = SwinBlock
    merging: type[PatchMerging] = PatchMerging

    def __init__(self, shape: SwinShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = self.build_patch_embed()
        self.layers = nn.ModuleList(
            Stage(
                [self.block(shape, s, shift, self.layers_of) for shift in shifts],
                self.merging(shape.width * 2 ** (s - 1), self.layers_of) if s else nn.Identity(),
            )
            for s, shifts in enumerate(shape.shifts)
        )
        self.norm = self.layers_of.layer_norm(shape.width * 2 ** (len(shape.shifts) - 1))

    def build_patch_embed(self) -> PatchEmbed:
        """Build the patch embedding."""
        return PatchEmbed(self.shape, self.layers_of)

    def path(self) -> list[str]:
        """See `PlainNetwork.path`."""
        return module_path([range(len(shifts)) for shifts in self.shape.shifts])

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, h, w, D) maps."""
        return self.patch_embed(images, self.shape.width)

    def output(self, x: Tensor) -> Features:
        """See `PlainNetwork.output`."""
        return staged.outputs(x, self.norm(x), self.shape.ibot_scale_factor)

    def layers_at(self, images: Tensor, n: int | Sequence[int], norm: bool) -> list[Layer]:
        """See `PlainNetwork.layers_at`.

        The last stage goes through the final norm, and earlier ones through norms without factors: those of
        pre-training are never trained.
        """
        indices, x = layer_indices(n, staged.N_STAGES, "stages"), self.stem(images)
        maps: dict[int, Tensor] = {}
        for name in self.path():
            if name.endswith("downsample"):
                maps[len(maps)] = x
            x = self.step(x, name)
        maps[len(maps)] = x
        if norm:
            maps = {i: F.layer_norm(y, y.shape[-1:], eps=1e-5) for i, y in maps.items()}
            maps[len(maps) - 1] = self.norm(x)
        return [layer_of(maps[i]) for i in indices]


def module_path(blocks: Sequence[Sequence[int]]) -> list[str]:
    """Return the names of mergings and of some blocks of each stage, in the order in which they run."""
    names = []
    for stage, ids in enumerate(blocks):
        names += [f"layers.{stage}.downsample"] if stage else []
        names += [f"layers.{stage}.blocks.{i}" for i in ids]
    return names
