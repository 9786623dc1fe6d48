"""The formats that are read: how each names the parameters that this package names as timm does."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.interop.families import Family
from poa_plugin.interop.resnet import ResNetFamily
from poa_plugin.interop.swin import SwinFamily
from poa_plugin.interop.vit import ViTFamily

Substitution = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern in a name, and what to put in its place."""

FLAT_BLOCKS: Substitution = (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")
"""`blocks.<chunk>.<id>.` counts blocks through all chunks."""
WRAPPED: Substitution = (r"\.(linear|conv|norm)\.(weight|bias)$", r".\2")
"""The published code's elastic layers wrap ordinary ones."""
LATER_MERGING: Substitution = (
    r"^layers\.(\d+)\.downsample\.",
    lambda match: f"layers.{int(match[1]) + 1}.downsample.",
)
"""A merging that belongs to the stage before it; here it belongs to the stage after it."""
HEAD: Sequence[Substitution] = (
    (r"^(mlp|last_layer)(\d*)\.", lambda match: f"{match[2] or 0}.{match[1]}."),
    (r"\.linear\.", "."),
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
)
"""Of projection heads, numbered in the published code (`mlp1.0.linear.weight`); DINOv2 has one."""
POSITIONS = [0, 2, 1, 3]
"""Where timm's order of 2 x 2 merged cells, (0, 0), (1, 0), (0, 1), (1, 1), finds them in the published one."""


@dataclass(frozen=True)
class Format:
    """How one code base names parameters.

    Attributes:
        name: what `--format` calls it.
        title: in sentences.
        marks: a pattern that names of this format have, and names of the following formats have not.
        backbones: the substitutions in the names of backbone parameters, for each family that can be read.
        is_pretraining: whether its files hold all that pre-training needs, such as mask tokens.
    """

    name: str
    title: str
    marks: str
    backbones: Mapping[str, Sequence[Substitution]]
    is_pretraining: bool = False


FORMATS = (
    Format(
        "poa",
        "the published POA format",
        r"\.(linear|conv)\.weight$|norm\d?\.norm\.weight$|^dino_head\.mlp\d+\.",
        {
            "vit": (FLAT_BLOCKS, WRAPPED),
            "swin": (
                WRAPPED,
                (r"^norm3\.", "norm."),
                (r"^stages\.", "layers."),
                LATER_MERGING,
                (r"\.attn\.w_msa\.", ".attn."),
                (r"\.ffn\.", ".mlp."),
            ),
            "resnet": (
                WRAPPED,
                (r"^(layer\d+)\.layers\.", r"\1."),
                (r"(^|\.)norm(\d)\.(weight|bias)$", r"\1bn\2.\3"),
            ),
        },
        is_pretraining=True,
    ),
    Format(
        "dinov2",
        "DINOv2's format",
        r"^backbone\.(mask_token$|blocks\.\d+\.\d+\.)|^(dino|ibot)_head\.",
        {"vit": (FLAT_BLOCKS,)},
        is_pretraining=True,
    ),
    Format(
        "swin",
        "the original Swin's format (timm's before 0.9)",
        r"^backbone\.layers\.0\.downsample\.",
        {"swin": (LATER_MERGING,)},
    ),
    Format("timm", "timm's format", "", {"vit": (), "swin": (), "resnet": ()}),
)
"""In the order in which they are tried."""
FAMILIES: tuple[Family, ...] = (ViTFamily(), SwinFamily(), ResNetFamily())


def detect(names: Collection[str], file: Path, wanted: str = "auto") -> tuple[Format, Family]:
    """Return the format and the family of a network.

    Args:
        names: of its parameters, `backbone.<name>` and the like.
        file: for errors.
        wanted: a format's name; `auto` tells it from the names.

    Raises:
        UserError: the format is unknown, or the names are of no network that can be imported.
    """
    format_names = ["auto", *(format_.name for format_ in FORMATS)]
    if wanted not in format_names:
        raise UserError(f"Unknown format '{wanted}': {did_you_mean(wanted, format_names)}.")
    parts = {name.split(".")[1] for name in names if name.startswith("backbone.")}
    format_ = next(
        candidate
        for candidate in FORMATS
        if wanted == candidate.name
        or (wanted == "auto" and any(re.search(candidate.marks, name) for name in names))
    )
    family = next((family for family in FAMILIES if any(map(parts.issuperset, family.signs))), None)
    if family is None or family.name not in format_.backbones:
        shown = ", ".join(f"'{name.removeprefix('backbone.')}'" for name in list(names)[:4])
        raise UserError(
            f"The file '{file}' holds no {' or '.join(format_.backbones)} of {format_.title}: its parameters "
            f"are called {shown}, ..."
        )
    return format_, family


def backbone_key(format_: Format, family: str, key: str) -> str:
    """Return our name of a backbone's parameter."""
    return _substituted(key, format_.backbones[family])


def head_key(key: str) -> str:
    """Return our name of a projection head's parameter, such as `1.mlp.0.weight`."""
    return _substituted(key, HEAD)


def reorder_merged(key: str, tensor: Tensor) -> Tensor:
    """Return a published parameter of a merging with its channels in timm's order; others as they are.

    Args:
        key: our name.
        tensor: (4 * C,) of the norm, or (2 * C, 4 * C) of the reduction; or its moment.
    """
    if not re.search(r"(^|\.)downsample\.(norm\.(weight|bias)|reduction\.weight)$", key):
        return tensor
    if tensor.dim() not in (1, 2) or tensor.shape[-1] % 4:
        return tensor
    return tensor.unflatten(-1, (4, -1))[..., POSITIONS, :].flatten(-2)


def _substituted(key: str, substitutions: Sequence[Substitution]) -> str:
    for pattern, replacement in substitutions:
        key = re.sub(pattern, replacement, key)
    return key
