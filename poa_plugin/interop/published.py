"""The published POA code's names: elastic layers wrap ordinary ones, heads are numbered in their names."""

from __future__ import annotations

import re

from poa_plugin.interop.dinov2 import flat_blocks
from poa_plugin.interop.formats import Format, any_name, weight_norm_key


def vit_key(key: str) -> str:
    """Return our name of a published parameter (`blocks.0.attn.qkv.linear.weight` and the like)."""
    return re.sub(r"\.(linear|norm)\.(weight|bias)$", r".\2", flat_blocks(key))


def head_key(key: str) -> str:
    """Return our name of a published head parameter (`mlp1.0.linear.weight`, `last_layer1.weight_g`)."""
    key = re.sub(r"^mlp(\d+)\.", r"\1.mlp.", key)
    key = re.sub(r"^last_layer(\d+)\.", r"\1.last_layer.", key)
    return weight_norm_key(key.replace(".linear.", "."))


FORMAT = Format(
    name="poa",
    title="the published POA format",
    recognises=any_name(r"\.(linear|conv)\.weight$|norm\d?\.norm\.weight$|^dino_head\.mlp\d+\."),
    backbones={"vit": vit_key},
    head=head_key,
)
