"""The ordinary isotropic network: patches, a stack of equal blocks, a norm. A family brings its block.

Nothing in this file is elastic: widths are read off tensors, and which layers are used is the class attribute
`layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import Features, PlainNetwork
from poa_plugin.backbones.drop_path import draw_drop_path
from poa_plugin.backbones.inputs import check_images
from poa_plugin.backbones.intermediate import Layer, layer_indices
from poa_plugin.backbones.option_checks import check_patches
from poa_plugin.elastic.layers import PlainLayers


class IsotropicShape(Protocol):
    """The sizes that every isotropic network has; a family's are a frozen dataclass with these and its own."""

    @property
    def image_size(self) -> int:
        """The side of the images in pixels that the network was trained on."""
        ...

    @property
    def patch_size(self) -> int:
        """The side of a patch in pixels."""
        ...

    @property
    def width(self) -> int:
        """Channels of a token."""
        ...

    @property
    def depth(self) -> int:
        """The number of blocks."""
        ...

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        ...


class PatchEmbed(nn.Module):
    """Split images into square patches and project each to a token."""

    def __init__(self, shape: IsotropicShape, layers: type[PlainLayers]) -> None:
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


class IsotropicNetwork(PlainNetwork):
    """Base of ordinary networks with one width and one stack of equal blocks.

    A family sets `block`, and overrides what it does otherwise: `add_parameters`, `init_weights`, `embed`,
    `name_tokens`.

    Args:
        shape: all sizes.
        drop_path_rates: the stochastic-depth rate of each block, used in training mode.

    Attributes:
        layers: the layers that modules are made of.
        block: built with the shape and the layers; called with the tokens, (B, h, w, D) if `embed` is not
            overridden, and its entry of `draw_drop_path`, and returns as many tokens.
    """

    layers: type[PlainLayers] = PlainLayers
    block: type[nn.Module]

    def __init__(
        self, shape: IsotropicShape, drop_path_rates: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.shape = shape
        self.drop_path_rates = list(drop_path_rates or [0.0] * shape.depth)
        self.grid_size = shape.image_size // shape.patch_size
        self.patch_embed = PatchEmbed(shape, self.layers)
        self.add_parameters()
        self.blocks = nn.ModuleList(self.block(shape, self.layers) for _ in range(shape.depth))
        self.norm = self.layers.layer_norm(shape.width, eps=1e-6)
        self.init_weights()

    def add_parameters(self) -> None:
        """Add parameters beside patch embedding, blocks and norm, such as positions; by default none."""

    def init_weights(self) -> None:
        """Draw the initial weights: of linear layers as in DINOv2's `vision_transformer.py`."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what the first block takes.

        By default (B, h, w, D) in the precision of the parameters, which under autocast patches do not have.

        Args:
            patches: (B, h * w, D) tokens, mask tokens among them.
            grid: rows and columns of patches, (h, w).
        """
        tokens = patches.to(self.norm.weight.dtype)
        return tokens.reshape(tokens.shape[0], grid[0], grid[1], tokens.shape[-1])

    def name_tokens(
        self, x_prenorm: Tensor, x_norm: Tensor, masks: Tensor | None = None
    ) -> Features:
        """Name the tokens before and after the final norm as DINOv2 does.

        By default there is no class token: the mean over (B, h, w, D) tokens stands for it.
        """
        patches = x_norm.flatten(1, 2)
        return {
            "x_norm_clstoken": patches.mean(1),
            "x_norm_patchtokens": patches,
            "x_prenorm": x_prenorm.flatten(1, 2),
            "masks": masks,
        }

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
        """See `PlainNetwork.stem`, and `embed`."""
        return self.embed(self.patch_embed(images), self._grid(images))

    def output(self, x: Tensor) -> Features:
        """See `PlainNetwork.output`."""
        return self.name_tokens(x, self.norm(x))

    def layers_at(self, images: Tensor, n: int | Sequence[int], norm: bool) -> list[Layer]:
        """See `PlainNetwork.layers_at`; the norm is the final one."""
        indices, x, taken = layer_indices(n, len(self.blocks), "blocks"), self.stem(images), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in indices:
                taken[i] = self._layer(self.norm(x) if norm else x, images)
        return [taken[i] for i in indices]

    def draw_drop_path(
        self, batch: int, generator: torch.Generator | None = None
    ) -> list[Tensor | None]:
        """Draw stochastic depth of every block for a forward pass over `batch` images."""
        rates = self.drop_path_rates if self.training else [0.0] * len(self.blocks)
        return draw_drop_path(rates, batch, self.norm.weight.device, generator)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        return height // self.shape.patch_size, width // self.shape.patch_size

    def _layer(self, x: Tensor, images: Tensor) -> Layer:
        features = self.name_tokens(x, x)
        patches = cast(Tensor, features["x_norm_patchtokens"]).unflatten(1, self._grid(images))
        return Layer(patches, cast(Tensor, features["x_norm_clstoken"]))
