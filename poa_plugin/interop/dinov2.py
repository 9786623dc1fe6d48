"""DINOv2's names: timm's, with blocks that may be chunked, a mask token, and one projection head."""

from __future__ import annotations

import re

from poa_plugin.interop.formats import Format, any_name, weight_norm_key


def flat_blocks(key: str) -> str:
    """Return a name without its chunk: `blocks.<chunk>.<id>.` counts blocks through all chunks."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)


def head_key(key: str) -> str:
    """Return our name of a head's parameter: its only head is our head 0."""
    return weight_norm_key(re.sub(r"^(mlp|last_layer)\.", r"0.\1.", key))


FORMAT = Format(
    name="dinov2",
    title="DINOv2's format",
    recognizes=any_name(
        r"^backbone\.(mask_token$|register_tokens$|blocks\.\d+\.\d+\.)|^(dino|ibot)_head\."
    ),
    backbones={"vit": flat_blocks},
    head=head_key,
)
