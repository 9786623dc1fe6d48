"""An elastic MLP-Mixer (Tolstikhin et al. 2021) of any width and depth, which mixes tokens on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from poa_plugin.backbones import (
    IsotropicBackbone,
    IsotropicMultiInputBlock,
    IsotropicNetwork,
    IsotropicOptions,
    Mlp,
    add_residual,
)
from poa_plugin.config.fields import number
from poa_plugin.registry import BACKBONES


@dataclass(frozen=True)
class MixerShape:
    """All sizes of a network; `width` and `hidden` are those that narrow."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    hidden: int
    token_hidden: int
    in_chans: int = 3


class TokenMixing(nn.Module):
    """An MLP over the positions of each channel. Its weights are maps, resized to the grid of the tokens."""

    def __init__(self, grid: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.randn(hidden, grid, grid) / grid)
        self.write = nn.Parameter(torch.randn(hidden, grid, grid) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden, 1))

    def forward(self, x):
        """Map (B, h, w, D) to (B, h, w, D)."""
        read, write = (self.at(weight, x.shape[1:3]) for weight in (self.read, self.write))
        share = self.read[0].numel() / read[0].numel()
        hidden = torch.einsum("bhwd,khw->bkd", x, read * share) + self.bias
        return torch.einsum("bkd,khw->bhwd", F.gelu(hidden), write)

    @staticmethod
    def at(weight, grid):
        """Return (K, G, G) maps resized to (K, h, w)."""
        if weight.shape[1:] == grid:
            return weight
        return F.interpolate(weight[None], size=grid, mode="bilinear", align_corners=False)[0]


class MixerBlock(nn.Module):
    """Token mixing and an MLP, each behind a norm and beside a shortcut."""

    def __init__(self, shape, layers) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(shape.width, eps=1e-6)
        self.tokens = TokenMixing(shape.image_size // shape.patch_size, shape.token_hidden)
        self.norm2 = layers.layer_norm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape.width, shape.hidden, True, layers)

    def forward(self, x, drop_path=None):
        """Map (B, h, w, D) to (B, h, w, D); the rows of `drop_path` are for the two branches."""
        first, second = (None, None) if drop_path is None else drop_path
        x = add_residual(x, lambda y: self.tokens(self.norm1(y)), first)
        return add_residual(x, lambda y: self.mlp(self.norm2(y)), second)


class Mixer(IsotropicNetwork):
    """The ordinary network, which `poa extract` writes."""

    block = MixerBlock


class ElasticMixerBlock(IsotropicMultiInputBlock, MixerBlock):
    """The same block, which takes the crops of both students in one call."""


@dataclass
class MixerOptions(IsotropicOptions):
    """Section `student.mixer` of the configuration."""

    mlp_ratio: float = number(4.0, "hidden units of an MLP for each channel", above=0, at_most=64)
    token_hidden: int = number(256, "hidden units of token mixing", at_least=1, at_most=2**15)


@BACKBONES.register_as("mixer")
class ElasticMixer(IsotropicBackbone, Mixer):
    """The elastic network, which is trained."""

    block = ElasticMixerBlock
    Options = MixerOptions

    @staticmethod
    def intact_shape(options, image_size):
        """Return the sizes of the intact network."""
        return MixerShape(
            image_size=image_size,
            patch_size=options.patch_size,
            width=options.max_width,
            depth=options.max_depth,
            hidden=int(options.max_width * options.mlp_ratio),
            token_hidden=options.token_hidden,
        )

    @staticmethod
    def build_plain(options):
        """Build an ordinary network from the sizes in an extracted folder."""
        return Mixer(MixerShape(**options))
