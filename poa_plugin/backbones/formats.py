"""What other libraries need to know to build an extracted network; each backbone describes its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

IMAGENET_STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def leave_alone(network: nn.Module) -> None:
    """Set nothing."""


@dataclass(frozen=True)
class TimmDescription:
    """How timm builds a network.

    Attributes:
        config: the `config.json` entries that timm reads (`architecture`, `model_args`, ...).
        refusal: a sentence on why timm has no such network; empty if it has one.
        needs_adjusting: whether timm's `local-dir:` alone builds another network, because `adjust` has
            to set something that timm has no argument for.
        adjust: sets it on the network that timm built.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    needs_adjusting: bool = False
    adjust: Callable[[nn.Module], None] = leave_alone


@dataclass(frozen=True)
class HuggingFaceDescription:
    """How one of transformers' own classes builds a network.

    Attributes:
        model_type: transformers' name, such as `dinov2`.
        config: the arguments of that type's configuration class.
        rename: makes that class's state dict from ours.
    """

    model_type: str
    config: Mapping[str, Any]
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def pretrained_cfg(
    image_size: int, in_chans: int, first_conv: str, classifier: str
) -> dict[str, Any]:
    """Return timm's `pretrained_cfg`, from which it takes the preprocessing."""
    return {
        "input_size": [in_chans, image_size, image_size],
        "num_classes": 0,
        **IMAGENET_STATISTICS,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "first_conv": first_conv,
        "classifier": classifier,
    }
