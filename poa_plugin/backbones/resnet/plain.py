"""ResNet with group norms, from one definition: of ordinary layers here, of elastic ones in `resnet.elastic`.

Parameter names are timm's (norms are called `bn*` there, also when they are group norms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones import staged
from poa_plugin.backbones.base import Features, PlainNetwork
from poa_plugin.backbones.inputs import check_images
from poa_plugin.backbones.intermediate import Layer, layer_indices, layer_of
from poa_plugin.elastic.layers import PlainLayers
from poa_plugin.elastic.norms import normalize

STEM_STRIDE = 4
"""Pixels of an image in each direction to one cell of the stem's map."""


@dataclass(frozen=True)
class ResNetShape:
    """Constructor arguments that an ordinary and an elastic ResNet have in common.

    Attributes:
        image_size: the side of the images in pixels that the network was trained on.
        stem_width: channels of the stem.
        width: inner channels of the first stage's bottlenecks; each further stage has twice as many.
        out_width: output channels of the first stage; each further stage has twice as many.
        depths: blocks of each stage.
        strides: of each stage's first block.
        groups: of every group norm.
        ibot_scale_factor: how often, in each direction, the last map is upsampled to give the patch tokens.
        in_chans: channels of an image.
    """

    image_size: int
    stem_width: int
    width: int
    out_width: int
    depths: Sequence[int]
    strides: Sequence[int] = (1, 2, 2, 2)
    groups: int = 32
    ibot_scale_factor: int = 2
    in_chans: int = 3


class Shortcut(nn.Sequential):
    """The convolution and the norm of a block whose output has another shape than its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        conv, norm = self
        return normalize(cast(nn.GroupNorm, norm), conv(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which carries the stride) and 1 x 1 convolution around a shortcut.

    Only the inner channels are elastic: inputs and outputs of a block have their full width.
    """

    def __init__(
        self,
        fan_in: int,
        inner: int,
        fan_out: int,
        stride: int,
        groups: int,
        layers: type[PlainLayers],
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv(fan_in, inner, 1, bias=False, fixed_input=True)
        self.bn1 = layers.group_norm(groups, inner)
        self.conv2 = layers.conv(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = layers.group_norm(groups, inner)
        self.conv3 = layers.conv(inner, fan_out, 1, bias=False, fixed_output=True)
        self.bn3 = nn.GroupNorm(groups, fan_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.downsample = Shortcut(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.GroupNorm(groups, fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        y = F.relu(normalize(self.bn1, self.conv1(x)), inplace=True)
        y = F.relu(normalize(self.bn2, self.conv2(y)), inplace=True)
        return self.join(normalize(self.bn3, self.conv3(y)), x)

    def join(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the shortcut of the block's input `x` to `y`, in place, and apply a ReLU."""
        return F.relu(y.add_(self.downsample(x)), inplace=True)


class ResNet(PlainNetwork):
    """An ordinary ResNet (timm's parameter names, DINOv2's outputs).

    There is no norm after the last block: the class token is the mean over its map.

    Args:
        shape: all sizes.
    """

    layers: type[PlainLayers] = PlainLayers
    block: type[Bottleneck] = Bottleneck

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv2d(shape.in_chans, shape.stem_width, 7, 2, 3, bias=False)
        self.bn1 = nn.GroupNorm(shape.groups, shape.stem_width)
        fan_in = shape.stem_width
        for stage, (depth, stride) in enumerate(zip(shape.depths, shape.strides, strict=True)):
            inner, fan_out = shape.width * 2**stage, shape.out_width * 2**stage
            blocks = []
            for i in range(depth):
                block_stride = stride if i == 0 else 1
                blocks.append(
                    self.block(fan_in, inner, fan_out, block_stride, shape.groups, self.layers)
                )
                fan_in = fan_out
            self.add_module(f"layer{stage + 1}", nn.ModuleList(blocks))

    def path(self) -> list[str]:
        """See `PlainNetwork.path`."""
        return module_path([range(depth) for depth in self.shape.depths])

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, D, H / 4, W / 4) maps.

        Raises:
            UserError: the images do not fit.
        """
        check_images(images, self.conv1.in_channels, self.conv1.weight.dtype)
        x = F.relu(normalize(self.bn1, self.conv1(images)), inplace=True)
        return F.max_pool2d(x, 3, 2, 1)

    def output(self, x: Tensor) -> Features:
        """See `PlainNetwork.output`."""
        last = x.permute(0, 2, 3, 1)
        return staged.outputs(last, last, self.shape.ibot_scale_factor)

    def layers_at(self, images: Tensor, n: int | Sequence[int], norm: bool) -> list[Layer]:
        """See `PlainNetwork.layers_at`; `norm` changes nothing: no stage ends in a norm."""
        indices, x = layer_indices(n, staged.N_STAGES, "stages"), self.stem(images)
        last = {name.split(".")[0]: name for name in self.path()}
        maps = []
        for name in self.path():
            x = self.step(x, name)
            if name in last.values():
                maps.append(x.permute(0, 2, 3, 1))
        return [layer_of(maps[i]) for i in indices]


def module_path(blocks: Sequence[Sequence[int]]) -> list[str]:
    """Return the names of some blocks of each stage, in the order in which they run."""
    return [f"layer{stage + 1}.{i}" for stage, ids in enumerate(blocks) for i in ids]
