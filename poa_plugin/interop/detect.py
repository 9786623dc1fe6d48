"""Which format and which family a branch's names are of."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.interop import dinov2, original_swin, published, timm
from poa_plugin.interop.families import Family
from poa_plugin.interop.formats import Format
from poa_plugin.interop.resnet import ResNetFamily
from poa_plugin.interop.swin import SwinFamily
from poa_plugin.interop.vit import VisionTransformerFamily

FORMATS: tuple[Format, ...] = (
    published.FORMAT,
    dinov2.FORMAT,
    original_swin.FORMAT,
    timm.FORMAT,
)
"""In the order in which they are tried: each has marks that the next has not."""
FAMILIES: tuple[Family, ...] = (VisionTransformerFamily(), SwinFamily(), ResNetFamily())
FORMAT_NAMES = ("auto", *(fmt.name for fmt in FORMATS))


def detect(names: Collection[str], file: Path, wanted: str = "auto") -> tuple[Format, Family]:
    """Return the format and the family of a branch.

    Args:
        names: of its parameters, `backbone.<name>` and the like.
        file: for errors.
        wanted: a format's name; `auto` tells it from the names.

    Raises:
        UserError: the format is unknown, or the names are of no network that can be read.
    """
    if wanted not in FORMAT_NAMES:
        raise UserError(f"Unknown format '{wanted}': {did_you_mean(wanted, FORMAT_NAMES)}.")
    backbone = [name.removeprefix("backbone.") for name in names if name.startswith("backbone.")]
    families = [family for family in FAMILIES if family.recognizes(backbone)]
    formats = [
        fmt for fmt in FORMATS if wanted == fmt.name or (wanted == "auto" and fmt.recognizes(names))
    ]
    if not families or not formats:
        shown = ", ".join(f"'{name.removeprefix('backbone.')}'" for name in list(names)[:4])
        readable = ", ".join(sorted({name for fmt in FORMATS for name in fmt.backbones}))
        raise UserError(
            f"The file '{file}' holds no network that can be imported: its parameters are called "
            f"{shown}, ... (backbones that can: {readable})."
        )
    if families[0].name not in formats[0].backbones:
        raise UserError(
            f"The file '{file}' is of {formats[0].title}, which has no {families[0].name}."
        )
    return formats[0], families[0]
