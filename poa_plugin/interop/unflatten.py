"""Shapes of flat parameters, from how many elements they and their neighbors have.

A run that was divided among GPUs leaves every parameter as a row of elements (see `shards`). Vectors, such as
biases and norms, are as long as they are wide, and tell the sizes of the matrices beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

Size = int | str
"""A size of a shape: a number, the name of the neighbor with as many elements, or a part that is left."""
REST, SIDE, OFFSETS = "rest", "side", "offsets"
"""What the other sizes leave; the square root of that; relative positions of a window (its index table's)."""

_BLOCK = r"(layers\.\d+\.)?blocks\.\d+\."
_STAGE = r"layer\d+\.\d+\."
_TRANSFORMER: dict[str, tuple[Size, ...]] = {
    rf"({_BLOCK})(attn\.qkv|mlp\.fc1)\.weight": (REST, "norm1.weight"),
    rf"({_BLOCK})(attn\.proj|mlp\.fc2)\.weight": ("norm1.weight", REST),
    rf"({_BLOCK})attn\.relative_position_bias_table": (OFFSETS, REST),
    r"()cls_token": (1, 1, REST),
    r"()pos_embed": (1, REST, "cls_token"),
    r"()mask_token": (1, REST),
    r"()patch_embed\.proj\.weight": ("patch_embed.proj.bias", 3, SIDE, SIDE),
    r"(layers\.\d+\.downsample\.)reduction\.weight": (REST, "norm.weight"),
}
SHAPES: Mapping[str, Mapping[str, tuple[Size, ...]]] = {
    "vit": _TRANSFORMER,
    "swin": _TRANSFORMER,
    "resnet": {
        r"()mask_token": (1, REST, 1, 1),
        r"()conv1\.weight": ("bn1.weight", 3, 7, 7),
        rf"({_STAGE})conv1\.weight": ("bn1.weight", REST, 1, 1),
        rf"({_STAGE})conv2\.weight": ("bn2.weight", REST, 3, 3),
        rf"({_STAGE})conv3\.weight": ("bn3.weight", REST, 1, 1),
        rf"({_STAGE}downsample\.)0\.weight": ("1.weight", REST, 1, 1),
    },
    "dino_head": {
        r"(\d+\.mlp\.\d+\.)weight": ("bias", REST),
        r"(\d+\.last_layer\.)weight_g": (REST, 1),
        r"(\d+\.last_layer\.)weight_v": ("weight_g", REST),
    },
}
"""By family, or part: patterns of our names, whose first group is what the neighbors' names begin with."""


def unflatten(part: str, key: str, tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """Return a parameter in its shape; vectors, and what nothing tells, as they are.

    Args:
        part: a family's name for a backbone, or `dino_head`.
        key: our name within the part.
        tensor: one-dimensional.
        sizes: the number of elements of every tensor of the part.
    """
    if tensor.dim() != 1:
        return tensor
    for pattern, shape in SHAPES.get(part, {}).items():
        if match := re.fullmatch(pattern, key):
            return _shaped(tensor, shape, match.group(1) or "", sizes)
    return tensor


def _shaped(
    tensor: Tensor, shape: tuple[Size, ...], prefix: str, sizes: Mapping[str, int]
) -> Tensor:
    known = [_known(size, prefix, sizes) for size in shape]
    rest = tensor.numel() // max(math.prod(size for size in known if size is not None), 1)
    rest = math.isqrt(rest) if SIDE in shape else rest
    whole = [rest if size is None else size for size in known]
    return tensor.reshape(whole) if math.prod(whole) == tensor.numel() else tensor


def _known(size: Size, prefix: str, sizes: Mapping[str, int]) -> int | None:
    """Return a size; None if it is what the others leave."""
    if isinstance(size, int):
        return size
    if (
        size == OFFSETS
    ):  # a window of w x w cells: (w * w)^2 entries in the index, (2 * w - 1)^2 offsets
        window = math.isqrt(math.isqrt(sizes.get(f"{prefix}attn.relative_position_index", 0)))
        return (2 * window - 1) ** 2
    return None if size in (REST, SIDE) else sizes.get(f"{prefix}{size}", 0)
