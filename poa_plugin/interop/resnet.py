"""The ResNet's architecture, read off tensors under this package's names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.staged import N_STAGES
from poa_plugin.errors import UserError
from poa_plugin.interop.families import Family, refuse_others
from poa_plugin.interop.layout import Entry
from poa_plugin.interop.proportions import LOCAL_CROP, described_side, multiple, section

SHALLOWEST = ((3, 3), (4, 8), (6, 36), (3, 3))
"""The least and the most blocks of each stage in the paper: a range starts in this proportion."""
STRIDE = 32
"""Pixels of an image in each direction to one cell of the last map, at the usual strides."""
TOLD = ("groups", "strides", "ibot_scale_factor")
"""What no tensor tells, and a `config.json` of ours does."""


class ResNetFamily(Family):
    """See `Family`."""

    name = "resnet"
    reasons: Mapping[str, str] = {
        r"\.(running_mean|running_var|num_batches_tracked)$": "a running statistic of a batch norm, where "
        "the backbone here has group norms: these normalize each image by its own statistics, so its "
        "features would be another network's",
        r"(^|\.)conv1\.\d+\.": "a stem of several convolutions, where the backbone here has one",
        r"\.downsample\.2\.": "a shortcut that averages first, where the one here has a stride",
        r"^((teacher|student)\.)?(backbone\.)?layer\d\.(layers\.)?\d+\.(se|attn|conv2\.fc\d)\.": "attention "
        "over channels, which the backbone here has not",
    }
    missing_reasons: Mapping[str, str] = {}

    def recognizes(self, names: Collection[str]) -> bool:
        """See `Family.recognizes`."""
        return {"conv1", "layer1"} <= {name.split(".")[0] for name in names}

    def told(self, buffers: Mapping[str, Entry], description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.told`: groups, strides, upsampling and the image size."""
        options = section(section(description, "poa"), "options")
        told = {f"student.resnet.{key}": options[key] for key in TOLD if key in options}
        if side := described_side(description):
            told["crops.global_crops_size"] = side
        return told

    def complete(self, backbone: dict[str, Entry], format_name: str) -> list[str]:
        """See `Family.complete`: only pre-training has a mask token."""
        stem = _stem({key: entry.tensor for key, entry in backbone.items()})
        if format_name == "poa" or stem is None or "mask_token" in backbone:
            return []
        backbone["mask_token"] = Entry("mask_token", torch.zeros(1, stem, 1, 1))
        return ["The file has no mask token: it starts at zero."]

    def architecture(self, backbone: Mapping[str, Tensor]) -> dict[str, Any]:
        """See `Family.architecture`; what occurs most often is taken for the network's."""
        refuse_others(self.reasons, backbone)
        depths = _depths(backbone)
        inner = [len(x) // 2**s for s, x in _of_blocks(backbone, r"(conv|bn)[12]\.(weight|bias)")]
        out = [len(x) // 2**s for s, x in _of_blocks(backbone, r"(conv|bn)3\.(weight|bias)")]
        stem = _stem(backbone)
        if sorted(depths) != list(range(N_STAGES)):
            shown = ", ".join(f"layer{stage + 1}" for stage in sorted(depths)) or "none"
            raise UserError(
                f"The file's backbone has the stages {shown}, where the one here has layer1 to layer4."
            )
        if not inner or not out or stem is None:
            raise UserError(
                "The file's blocks are no bottlenecks of three convolutions behind a stem, as those of the "
                "backbone here are."
            )
        return {
            "student.resnet.stem_width": stem,
            "student.resnet.max_width": mode(inner),
            "student.resnet.out_width": mode(out),
            "student.resnet.max_depths": [depths[stage] for stage in range(N_STAGES)],
        }

    def choices(
        self, known: Mapping[str, Any], given: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: groups, ranges in the paper's proportions, crops."""
        width, depths = known["student.resnet.max_width"], known["student.resnet.max_depths"]
        groups = given.get("student.resnet.groups") or 32
        for key in ("stem_width", "max_width", "out_width"):
            if known[f"student.resnet.{key}"] % groups:
                raise UserError(
                    f"Weights of {key} {known[f'student.resnet.{key}']} do not tell the number of groups of "
                    f"their norms, which cannot be {groups}: add --config student.resnet.groups=..."
                )
        step = -(-width // 4 // groups) * groups
        image = given.get("crops.global_crops_size") or 224
        return {
            "student.resnet.groups": groups,
            "student.resnet.min_width": width - (width // 2) // step * step,
            "student.resnet.width_step": step,
            "student.resnet.min_depths": [
                -(-depth * least // most)
                for depth, (least, most) in zip(depths, SHALLOWEST, strict=True)
            ],
            "student.resnet.decay_shortcut_norm": format_name == "poa",
            "crops.global_crops_size": image,
            "crops.local_crops_size": multiple(LOCAL_CROP * image, STRIDE),
        }


def _of_blocks(backbone: Mapping[str, Tensor], name: str) -> Iterator[tuple[int, Tensor]]:
    """Yield the stage, from 0, and the tensor of what all blocks have under a name (a pattern)."""
    for key, tensor in backbone.items():
        match = re.fullmatch(rf"layer(\d+)\.\d+\.{name}", key)
        if match and tensor.dim():
            yield int(match.group(1)) - 1, tensor


def _depths(backbone: Mapping[str, Tensor]) -> dict[int, int]:
    depths: dict[int, int] = {}
    for key in backbone:
        if match := re.match(r"layer(\d+)\.(\d+)\.", key):
            stage, block = int(match.group(1)) - 1, int(match.group(2))
            depths[stage] = max(depths.get(stage, 0), block + 1)
    return depths


def _stem(backbone: Mapping[str, Tensor]) -> int | None:
    """Return the channels of the stem; None if there is none."""
    keys = ("conv1.weight", "bn1.weight", "bn1.bias")
    sizes = [len(backbone[key]) for key in keys if key in backbone and backbone[key].dim()]
    return mode(sizes) if sizes else None
