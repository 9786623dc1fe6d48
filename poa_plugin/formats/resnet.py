"""How timm builds the ResNets of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poa_plugin.backbones.resnet.plain import ResNetShape
from poa_plugin.formats.description import LibraryFormats, TimmDescription, pretrained_cfg
from poa_plugin.registry import FORMATS

TIMM = {"stem_width": 64, "groups": 32, "strides": [1, 2, 2, 2]}
"""What timm's ResNets with group norms have no argument for."""
EXPANSION = 4
"""Of timm's bottlenecks, whose inner channels are `base_width / 64` times a stage's `channels`."""


@FORMATS.register_as("resnet")
class ResNetFormats(LibraryFormats):
    """ResNets in timm."""

    def timm(self, options: Mapping[str, Any]) -> TimmDescription:
        """See `LibraryFormats.timm`."""
        return timm_description(ResNetShape(**options))


def timm_description(shape: ResNetShape) -> TimmDescription:
    """Say how stock timm builds a network of this shape."""
    other = [name for name, value in TIMM.items() if _plain(getattr(shape, name)) != value]
    if other or shape.out_width % EXPANSION:
        names = ", ".join(f"{name} {_plain(getattr(shape, name))}" for name in other)
        return TimmDescription(
            refusal=f"timm's ResNet has no argument for {names or f'out_width {shape.out_width}'}: "
            f"poa_plugin.load loads this network."
        )
    planes = shape.out_width // EXPANSION
    return TimmDescription(
        {
            "architecture": "resnet50_gn",
            "num_classes": 0,
            "num_features": shape.out_width * 2 ** (len(shape.depths) - 1),
            "global_pool": "avg",
            "model_args": {
                "in_chans": shape.in_chans,
                "layers": list(shape.depths),
                "channels": [planes * 2**stage for stage in range(len(shape.depths))],
                "base_width": _base_width(shape.width, planes),
            },
            "pretrained_cfg": pretrained_cfg(shape.image_size, shape.in_chans, "conv1", "fc"),
        }
    )


def _base_width(width: int, planes: int) -> float:
    """Return the base width from which timm's truncating arithmetic gets the inner channels."""
    base = 64 * width / planes
    return int(base) if base == int(base) else 64 * (width + 0.5) / planes


def _plain(value: object) -> object:
    return value if isinstance(value, int) else list(value)  # type: ignore[call-overload]
