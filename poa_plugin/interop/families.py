"""What an importer has to know of a family of backbones; each family has a file of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mode
from typing import Any

import torch
from torch import Tensor

LOCAL_CROP = 96 / 224
"""The side of local crops in relation to global ones, the paper's."""
Tensors = Mapping[str, Tensor]
"""A backbone's tensors by our names; flat if they were divided among ranks, so that only their sizes tell."""


class Family:
    """One family of backbones, under its registered name.

    Attributes:
        name: the name in the backbones' registry, and of the section `student.<name>`.
        signs: first parts of parameters' names, in sets of which a backbone of this family has one.
        others: what networks have that the backbone here has not, by patterns of their keys; without these keys
            every output would be another network's.
        buffers: a pattern of our names of tensors that are recomputed, and no parameters.
        pretraining: a pattern of our names of parameters that only pre-training needs.
    """

    name: str
    signs: Sequence[set[str]]
    others: Mapping[str, str]
    buffers: str = r"$^"
    pretraining: str = "mask_token"

    def metadata(self, buffers: Tensors, description: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration that a file tells beside its parameters, by dotted keys.

        Args:
            buffers: by our names.
            description: of the `config.json` beside the file, empty without one.

        Raises:
            UserError: they are of a network that the backbone here cannot be.
        """
        raise NotImplementedError

    def architecture(self, backbone: Tensors) -> dict[str, Any]:
        """Return the configuration that the tensors prove, by dotted keys.

        A size that occurs most often is taken for the network's, so that a misshapen tensor is found to
        be the one that does not fit.

        Raises:
            UserError: they are not those of a network of this family.
        """
        raise NotImplementedError

    def choices(
        self, proved: Mapping[str, Any], inferred: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """Return values for what tensors do not tell, by dotted keys.

        Args:
            proved: what `architecture` returned.
            inferred: what the user set, over what `metadata` returned.
            format_name: of the file.

        Raises:
            UserError: the user has to set something.
        """
        raise NotImplementedError

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Return a tensor, by our name in the backbone, at the run's image size if it depends on it."""
        return tensor


def narrowest(width: int, head_dim: int, mlp_ratio: float, start: float) -> int:
    """Return the width of whole heads at which a range begins: from `start` times the intact one's."""
    if int(width * mlp_ratio) * head_dim % width:
        return width  # narrower networks would have no whole number of MLP units
    return math.ceil(start * width / head_dim) * head_dim


def multiple(size: float, of: int) -> int:
    """Return the multiple of `of` that is nearest to a size, at least one."""
    return max(round(size / of), 1) * of


def most_common(sizes: Iterable[int]) -> int:
    """Return the size that occurs most often; 0 without sizes."""
    sizes = list(sizes)
    return mode(sizes) if sizes else 0


def of_stages(backbone: Tensors, pattern: str, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield (stage, tensor) of names that match a pattern whose first group is the stage."""
    for key, tensor in backbone.items():
        if match := re.fullmatch(pattern, key):
            yield int(match[1]) - first, tensor


def stage_depths(backbone: Tensors, pattern: str, first: int = 0) -> list[int]:
    """Return the numbers of blocks of the stages; the pattern's groups are stage and block.

    A stage between others that is not there has 0.
    """
    blocks = [
        (int(match[1]) - first, int(match[2]))
        for key in backbone
        if (match := re.match(pattern, key))
    ]
    return [
        max((1 + block for other, block in blocks if other == stage), default=0)
        for stage in range(1 + max((stage for stage, _ in blocks), default=-1))
    ]


def section(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a description; empty where it has none."""
    value = description.get(name)
    return value if isinstance(value, Mapping) else {}


def described_image_size(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the side of the images that a `config.json` of ours or of timm's tells, by its dotted key."""
    options = section(section(description, "poa"), "options")
    size = options.get("image_size") or section(description, "model_args").get("img_size")
    size = size or section(description, "pretrained_cfg").get("input_size")
    if isinstance(size, (list, tuple)) and size:
        size = size[-1]
    return {"crops.global_crops_size": size} if isinstance(size, int) else {}
