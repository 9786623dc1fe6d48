"""The published POA code's names: elastic layers wrap ordinary ones, heads are numbered in their names."""

from __future__ import annotations

import re

from torch import Tensor

from poa_plugin.interop.dinov2 import flat_blocks
from poa_plugin.interop.formats import Format, any_name, weight_norm_key

POSITIONS = [0, 2, 1, 3]
"""Where timm's order of 2 x 2 merged cells, (0, 0), (1, 0), (0, 1), (1, 1), finds them in the published one."""


def vit_key(key: str) -> str:
    """Return our name of a published parameter (`blocks.0.attn.qkv.linear.weight` and the like)."""
    return re.sub(r"\.(linear|norm)\.(weight|bias)$", r".\2", flat_blocks(key))


def swin_key(key: str) -> str:
    """Return our name (`stages.1.blocks.0.attn.w_msa.qkv.linear.weight` and the like); norm 3 is the final one.

    A merging belongs to the stage before it there, and to the stage after it here.
    """
    key = re.sub(r"\.(linear|norm)\.(weight|bias)$", r".\2", key)
    key = re.sub(r"^norm3\.", "norm.", key)
    key = re.sub(
        r"^stages\.(\d+)\.downsample\.",
        lambda found: f"layers.{int(found.group(1)) + 1}.downsample.",
        key,
    )
    key = re.sub(r"^stages\.", "layers.", key)
    return key.replace(".attn.w_msa.", ".attn.").replace(".ffn.", ".mlp.")


def resnet_key(key: str) -> str:
    """Return our name of a published parameter (`layer1.layers.0.conv1.conv.weight` and the like)."""
    key = re.sub(r"\.(conv|norm)\.(weight|bias)$", r".\2", key)
    key = re.sub(r"^(layer\d+)\.layers\.", r"\1.", key)
    return re.sub(r"(^|\.)norm(\d)\.(weight|bias)$", r"\1bn\2.\3", key)


def reorder_merged(key: str, tensor: Tensor) -> Tensor:
    """Return a parameter of a merging with its four groups of channels in timm's order; others as they are.

    Args:
        key: our name.
        tensor: (4 * C,) of the norm, or (2 * C, 4 * C) of the reduction.
    """
    if not re.search(r"(^|\.)downsample\.(norm\.(weight|bias)|reduction\.weight)$", key):
        return tensor
    if tensor.dim() not in (1, 2) or tensor.shape[-1] % 4:
        return tensor
    return tensor.unflatten(-1, (4, -1))[..., POSITIONS, :].flatten(-2)


def head_key(key: str) -> str:
    """Return our name of a published head parameter (`mlp1.0.linear.weight`, `last_layer1.weight_g`)."""
    key = re.sub(r"^mlp(\d+)\.", r"\1.mlp.", key)
    key = re.sub(r"^last_layer(\d+)\.", r"\1.last_layer.", key)
    return weight_norm_key(key.replace(".linear.", "."))


FORMAT = Format(
    name="poa",
    title="the published POA format",
    recognizes=any_name(r"\.(linear|conv)\.weight$|norm\d?\.norm\.weight$|^dino_head\.mlp\d+\."),
    backbones={"vit": vit_key, "swin": swin_key, "resnet": resnet_key},
    head=head_key,
    convert=reorder_merged,
)
