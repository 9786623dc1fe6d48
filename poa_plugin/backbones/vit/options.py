"""The elastic vision transformer's section of the configuration, and the named sizes."""

from __future__ import annotations

from dataclasses import dataclass

from poa_plugin.backbones.isotropic.options import IsotropicOptions
from poa_plugin.backbones.option_checks import HIGHEST_RATIO, WIDEST
from poa_plugin.config.fields import number, switch
from poa_plugin.elastic.subnet import Subnet

SIZES = {"small": Subnet(384, 12), "base": Subnet(768, 12), "large": Subnet(1024, 24)}
"""The members of the paper's space that have names (ViT-S, ViT-B, ViT-L)."""


@dataclass
class ViTOptions(IsotropicOptions):
    """Section `student.vit` of the configuration: the paper's ViT-S .. ViT-L by default."""

    min_width: int = number(
        384, "narrowest network; a multiple of `head_dim`", at_least=1, at_most=WIDEST
    )
    head_dim: int = number(
        64, "channels of an attention head, at every width", at_least=1, at_most=WIDEST
    )
    mlp_ratio: float = number(
        4.0, "hidden units of an MLP for each channel", above=0, at_most=HIGHEST_RATIO
    )
    qkv_bias: bool = switch(True, "biases of queries, keys and values")
    proj_bias: bool = switch(True, "biases of the attention's output")
    ffn_bias: bool = switch(True, "biases of the MLP")
    layerscale: float | None = number(
        1.0e-05, "initial layer scale; null for none", at_least=0, at_most=100
    )
