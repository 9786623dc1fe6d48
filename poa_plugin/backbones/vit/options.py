"""The elastic vision transformer's section of the configuration, and the named sizes."""

from __future__ import annotations

from dataclasses import dataclass

from poa_plugin.backbones.option_checks import DEEPEST, HIGHEST_RATIO, WIDEST
from poa_plugin.config.fields import number, switch
from poa_plugin.elastic.subnet import Subnet

SIZES = {"small": Subnet(384, 12), "base": Subnet(768, 12), "large": Subnet(1024, 24)}
"""The members of the paper's space that have names (ViT-S, ViT-B, ViT-L)."""


@dataclass
class ViTOptions:
    """Section `student.vit` of the configuration: the paper's ViT-S .. ViT-L by default."""

    min_width: int = number(
        384, "narrowest network; a multiple of `head_dim`", at_least=1, at_most=WIDEST
    )
    max_width: int = number(
        1024,
        "the intact network's width",
        at_least=1,
        at_most=WIDEST,
        synonyms=("width", "embed_dim", "dim"),
    )
    width_step: int = number(64, "from one width to the next", at_least=1, at_most=WIDEST)
    min_depth: int = number(12, "blocks of the shallowest network", at_least=1, at_most=DEEPEST)
    max_depth: int = number(
        24,
        "blocks of the intact network",
        at_least=1,
        at_most=DEEPEST,
        synonyms=("depth", "n_blocks"),
    )
    depth_step: int = number(1, "from one depth to the next", at_least=1, at_most=DEEPEST)
    head_dim: int = number(
        64, "channels of an attention head, at every width", at_least=1, at_most=WIDEST
    )
    patch_size: int = number(16, "side of a patch", at_least=1, at_most=1024, unit="pixels")
    mlp_ratio: float = number(
        4.0, "hidden units of an MLP for each channel", above=0, at_most=HIGHEST_RATIO
    )
    qkv_bias: bool = switch(True, "biases of queries, keys and values")
    proj_bias: bool = switch(True, "biases of the attention's output")
    ffn_bias: bool = switch(True, "biases of the MLP")
    layerscale: float | None = number(
        1.0e-05, "initial layer scale; null for none", at_least=0, at_most=100
    )
    drop_path_rate: float = number(
        0.2,
        "stochastic depth of both students",
        at_least=0,
        below=1,
        synonyms=("drop_path", "stochastic_depth"),
    )
    drop_path_uniform: bool = switch(
        True, "the same rate in all blocks, or rising linearly from 0 to it"
    )
    net_select_scale: float = number(
        3.0,
        "how much more often the smallest width, and depth, is drawn",
        at_least=1,
        at_most=100,
    )
