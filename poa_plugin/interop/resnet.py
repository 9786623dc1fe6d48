"""The ResNet's architecture, read off tensors under this package's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poa_plugin.backbones.staged import N_STAGES
from poa_plugin.errors import UserError
from poa_plugin.interop.families import (
    LOCAL_CROP,
    Family,
    Tensors,
    described_image_size,
    most_common,
    multiple,
    of_stages,
    section,
    stage_depths,
)

SHALLOWEST = ((3, 3), (4, 8), (6, 36), (3, 3))
"""The least and the most blocks of each stage in the paper: a range starts in this proportion."""
STRIDE = 32
"""Pixels of an image in each direction to one cell of the last map, at the usual strides."""
DESCRIBED = ("groups", "strides", "ibot_scale_factor")
"""What no tensor tells, and a `config.json` of ours does."""


class ResNetFamily(Family):
    """See `Family`."""

    name = "resnet"
    signs = ({"conv1", "layer1"},)
    others: Mapping[str, str] = {
        r"\.(running_mean|running_var|num_batches_tracked)$": "batch norms in place of group norms",
        r"(^|\.)conv1\.\d+\.": "a stem of several convolutions",
        r"\.downsample\.2\.": "shortcuts that average first",
        r"(^|\.)layer\d\.(layers\.)?\d+\.(se|attn|conv2\.fc\d)\.": "attention over channels",
    }

    def metadata(self, buffers: Tensors, description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.metadata`: groups, strides, upsampling and the image size."""
        options = section(section(description, "poa"), "options")
        described = {f"student.resnet.{key}": options[key] for key in DESCRIBED if key in options}
        return described | described_image_size(description)

    def architecture(self, backbone: Tensors) -> dict[str, Any]:
        """See `Family.architecture`."""
        depths = stage_depths(backbone, r"layer(\d+)\.(\d+)\.", first=1)
        norms = {
            key: most_common(
                x.numel() // 2**stage
                for stage, x in of_stages(
                    backbone, rf"layer(\d+)\.\d+\.bn[{numbers}]\.(weight|bias)", first=1
                )
            )
            for key, numbers in (("max_width", "12"), ("out_width", "3"))
        }
        proved = {"stem_width": _stem(backbone), **norms, "max_depths": depths}
        if len(depths) != N_STAGES or 0 in depths or not all(proved.values()):
            raise UserError(
                f"The file's backbone has stages of {depths} blocks, where a ResNet here has {N_STAGES} stages "
                f"of bottlenecks of three convolutions, behind a stem of one."
            )
        return {f"student.resnet.{key}": value for key, value in proved.items()}

    def choices(
        self, proved: Mapping[str, Any], inferred: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: groups, ranges in the paper's proportions, crops."""
        width, depths = proved["student.resnet.max_width"], proved["student.resnet.max_depths"]
        groups = inferred.get("student.resnet.groups") or 32
        for key in ("stem_width", "max_width", "out_width"):
            if proved[f"student.resnet.{key}"] % groups:
                raise UserError(
                    f"Weights of {key} {proved[f'student.resnet.{key}']} do not tell the number of groups of "
                    f"their norms, which cannot be {groups}: add --config student.resnet.groups=..."
                )
        step = -(-width // 4 // groups) * groups
        image = inferred.get("crops.global_crops_size") or 224
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


def _stem(backbone: Tensors) -> int:
    """Return the channels of the stem, a convolution of 7 x 7 pixels of 3 channels; 0 if there is none."""
    elements = {"conv1.weight": 3 * 7 * 7, "bn1.weight": 1, "bn1.bias": 1}
    return most_common(backbone[key].numel() // n for key, n in elements.items() if key in backbone)
