"""Sizes that follow from others in the proportions of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOCAL_CROP = 96 / 224
"""The side of local crops in relation to global ones, the paper's."""


def multiple(size: float, of: int) -> int:
    """Return the multiple of `of` that is nearest to a size, at least one."""
    return max(round(size / of), 1) * of


def described_side(description: Mapping[str, Any]) -> int | None:
    """Return the side of the images that a `config.json` of ours or of timm's tells, in pixels."""
    own, model, data = (
        section(description, name) for name in ("poa", "model_args", "pretrained_cfg")
    )
    side = section(own, "options").get("image_size")
    side = side or model.get("img_size") or data.get("input_size")
    if isinstance(side, (list, tuple)) and side:
        side = side[-1]
    return side if isinstance(side, int) else None


def section(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a description; empty where it has none."""
    found = description.get(name)
    return found if isinstance(found, Mapping) else {}
