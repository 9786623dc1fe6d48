"""What other libraries need to know to build the networks of a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from poa_plugin.registry import FORMATS

CROP_RATIO = 0.875
"""The ratio of a resized image's side that the center crop keeps: 224 of 256 pixels."""
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
        limits: a sentence on where timm computes something else; empty if it never does.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    needs_adjusting: bool = False
    adjust: Callable[[nn.Module], None] = leave_alone
    limits: str = ""


@dataclass(frozen=True)
class HuggingFaceDescription:
    """How one of transformers' own classes builds a network.

    Attributes:
        model_type: transformers' name, such as `dinov2`.
        config: the arguments of that type's configuration class.
        rename: makes the state dict of that type's files from ours.
        limits: a sentence on where that class computes something else; empty if it never does.
    """

    model_type: str
    config: Mapping[str, Any]
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    limits: str = ""


def pretrained_cfg(
    image_size: int, in_chans: int, first_conv: str, classifier: str
) -> dict[str, Any]:
    """Return timm's `pretrained_cfg`, from which it takes the preprocessing."""
    return {
        "input_size": [in_chans, image_size, image_size],
        "num_classes": 0,
        **IMAGENET_STATISTICS,
        "interpolation": "bicubic",
        "crop_pct": CROP_RATIO,
        "first_conv": first_conv,
        "classifier": classifier,
    }


def mlp_ratio(width: int, hidden: int) -> float:
    """Return the ratio from which truncating arithmetic gets the hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


class LibraryFormats:
    """How other libraries build the ordinary networks of a family, registered in `FORMATS` under its name.

    A family that has none is not known to them: `poa_plugin.load` loads its networks.
    """

    def timm(self, options: Mapping[str, Any]) -> TimmDescription:
        """Say how stock timm builds the ordinary network of `plain_options`, or why it has none."""
        return TimmDescription(
            refusal="timm has no such network: poa_plugin.load loads it, where its backbone is registered."
        )

    def hugging_face(self, options: Mapping[str, Any]) -> HuggingFaceDescription | None:
        """Say how transformers' own class for such networks is built; None where it has none."""
        return None


def formats_of(family: str) -> LibraryFormats:
    """Return how other libraries build the networks of a family, given by its registered name."""
    return FORMATS.get(family)() if family in FORMATS else LibraryFormats()
