"""The original Swin's names, which timm had before 0.9 too: a merging belongs to the stage before it."""

from __future__ import annotations

import re

from poa_plugin.interop.formats import Format, any_name


def swin_key(key: str) -> str:
    """Return our name of a parameter: here a merging belongs to the stage after it."""
    return re.sub(
        r"^layers\.(\d+)\.downsample\.",
        lambda found: f"layers.{int(found.group(1)) + 1}.downsample.",
        key,
    )


FORMAT = Format(
    name="swin",
    title="the original Swin's format (timm's before 0.9)",
    recognizes=any_name(r"^backbone\.layers\.0\.downsample\."),
    backbones={"swin": swin_key},
)
