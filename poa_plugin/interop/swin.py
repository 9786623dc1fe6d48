"""The Swin transformer's architecture, read off tensors under this package's names."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.staged import N_STAGES
from poa_plugin.backbones.swin.options import ELASTIC_STAGE
from poa_plugin.backbones.swin.windows import relative_positions, shift_mask
from poa_plugin.errors import UserError
from poa_plugin.formats.description import mlp_ratio
from poa_plugin.interop.families import Family, refuse_others
from poa_plugin.interop.layout import Entry
from poa_plugin.interop.proportions import (
    LOCAL_CROP,
    described_side,
    multiple,
    section,
)

NARROWEST, SHALLOWEST = 3 / 4, 1 / 3
"""Where a range starts in relation to the intact network: the paper's 96 of 128 and 6 of 18."""
EXTRACTED = {(96, (2, 2, 6, 2)), (96, (2, 2, 18, 2))}
"""Width and depths of what the published extraction tool writes; its third network is the intact one."""
PUBLISHED_SIZE = 224
"""Of the global crops in the published recipe, in pixels."""


class SwinFamily(Family):
    """See `Family`."""

    name = "swin"
    reasons: Mapping[str, str] = {
        r"\.attn\.(logit_scale|cpb_mlp|q_bias|v_bias|relative_coords_table)(\.|$)": "a part of Swin V2 "
        "(cosine attention with biases that a small network works out), where the backbone here has "
        "scaled products and a table of biases",
        r"(^|\.)absolute_pos_embed$": "a table of absolute positions, which the backbone here has not",
    }
    missing_reasons: Mapping[str, str] = {
        r"(^|\.)patch_embed\.norm\.": "a patch embedding without a norm is another network's",
    }

    def recognizes(self, names: Collection[str]) -> bool:
        """See `Family.recognizes`."""
        parts = {name.split(".")[0] for name in names}
        return "patch_embed" in parts and bool({"layers", "stages"} & parts)

    def is_buffer(self, name: str) -> bool:
        """See `Family.is_buffer`: where cells stand in the table of biases, and masks of shifted windows."""
        return name.endswith((".attn.relative_position_index", ".attn_mask"))

    def told(self, buffers: Mapping[str, Entry], description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.told`: the stages that are shifted, the image size, upsampling."""
        told: dict[str, Any] = {}
        masks = {key: entry for key, entry in buffers.items() if key.endswith(".attn_mask")}
        for key, entry in buffers.items():
            usual = _usual_mask(entry.tensor) if key in masks else _usual_index(entry.tensor)
            if usual is None or not torch.equal(entry.tensor.to(usual.dtype), usual):
                raise UserError(
                    f"The table '{entry.key}' in the file is not the one that its shape makes the "
                    f"backbone here work out, so the weights are another network's."
                )
        if masks:
            told["student.swin.shifted_stages"] = _masked_stages(buffers, masks)
        options = section(section(description, "poa"), "options")
        if {"shifts", "window", "stem_width", "width"} <= options.keys():
            told["student.swin.shifted_stages"] = _shifted_stages(options)
        elif section(description, "model_args").get("always_partition"):
            told["student.swin.shifted_stages"] = list(range(N_STAGES))
        if "ibot_scale_factor" in options:
            told["student.swin.ibot_scale_factor"] = options["ibot_scale_factor"]
        if side := described_side(description):
            told["crops.global_crops_size"] = side
        return told

    def complete(self, backbone: dict[str, Entry], format_name: str) -> list[str]:
        """See `Family.complete`: only pre-training has a mask token and norms of the earlier stages."""
        width = _width({key: entry.tensor for key, entry in backbone.items()})
        if format_name == "poa" or width is None or "mask_token" in backbone:
            return []
        backbone["mask_token"] = Entry("mask_token", torch.zeros(1, width))
        for stage in range(N_STAGES - 1):
            for key, fill in (("weight", 1.0), ("bias", 0.0)):
                name = f"norm{stage}.{key}"
                backbone.setdefault(name, Entry(name, torch.full((width * 2**stage,), fill)))
        return [
            "The file has no mask token: it starts at zero.",
            "Norms for features of the first three stages start anew: the file has none.",
        ]

    def architecture(self, backbone: Mapping[str, Tensor]) -> dict[str, Any]:
        """See `Family.architecture`; what occurs most often is taken for the network's."""
        refuse_others(self.reasons, backbone)
        width, depths = _width(backbone), _depths(backbone)
        if width is None:
            raise UserError("There are no blocks with norms in the file's backbone.")
        if sorted(depths) != list(range(N_STAGES)):
            raise UserError(
                f"The file's backbone has the stages {sorted(depths)}, where the one here has 0, 1, 2 and 3."
            )
        _refuse_wider_stem(backbone, width)
        tables = list(_of_blocks(backbone, r"attn\.relative_position_bias_table", 2))
        windows = [(math.isqrt(len(table)) + 1) // 2 for _, table in tables]
        head_dims = [width * 2**stage // max(table.shape[1], 1) for stage, table in tables]
        hidden = [len(x) // 2**stage for stage, x in _of_blocks(backbone, r"mlp\.fc1\.weight", 2)]
        biases = len(list(_of_blocks(backbone, r"attn\.qkv\.bias")))
        patches = backbone.get("patch_embed.proj.weight")
        patch = patches.shape[-1] if patches is not None and patches.dim() == 4 else 4
        section_ = {
            "max_width": width,
            "max_depths": [depths[stage] for stage in range(N_STAGES)],
            "window_size": mode(windows or [7]),
            "head_dim": mode(head_dims or [math.gcd(width, 32)]),
            "patch_size": max(patch, 1),
            "mlp_ratio": mlp_ratio(width, mode(hidden or [4 * width])),
            "qkv_bias": 2 * biases >= sum(depths.values()),
        }
        return {f"student.swin.{key}": value for key, value in section_.items()}

    def choices(
        self, known: Mapping[str, Any], given: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: ranges in the paper's proportions, the patch norm, shifts, crops."""
        own = {key.removeprefix("student.swin."): value for key, value in known.items()}
        published = format_name == "poa"
        if published:
            _refuse_what_the_tool_writes(own, given)
        width, head_dim, window = own["max_width"], own["head_dim"], own["window_size"]
        narrowest = math.ceil(NARROWEST * width / head_dim) * head_dim
        if int(width * own["mlp_ratio"]) * head_dim % width:
            narrowest = width  # narrower networks would have no whole number of MLP units
        stride = own["patch_size"] * 2 ** (N_STAGES - 1)
        native = PUBLISHED_SIZE if published else window * stride
        image = given.get("crops.global_crops_size") or native
        cells = [image // own["patch_size"] // 2**stage for stage in range(N_STAGES)]
        shifted = [stage for stage in range(N_STAGES) if published or cells[stage] > window]
        return {
            "student.swin.min_width": narrowest,
            "student.swin.width_step": head_dim,
            "student.swin.min_depth": math.ceil(SHALLOWEST * own["max_depths"][ELASTIC_STAGE]),
            "student.swin.depth_step": 1,
            "student.swin.patch_norm": "full" if published else "active",
            "student.swin.shifted_stages": given.get("student.swin.shifted_stages", shifted),
            "crops.global_crops_size": image,
            "crops.local_crops_size": multiple(LOCAL_CROP * image, stride),
        }


def _of_blocks(
    backbone: Mapping[str, Tensor], name: str, dim: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield the stage and the tensor of what all blocks have under a name (a pattern)."""
    for key, tensor in backbone.items():
        match = re.fullmatch(rf"layers\.(\d+)\.blocks\.\d+\.{name}", key)
        if match and dim in (None, tensor.dim()):
            yield int(match.group(1)), tensor


def _width(backbone: Mapping[str, Tensor]) -> int | None:
    """Return the width of the first stage; None if no block has a norm."""
    norms = [len(x) // 2**s for s, x in _of_blocks(backbone, r"norm[12]\.(weight|bias)", 1)]
    return mode(norms) if norms else None


def _depths(backbone: Mapping[str, Tensor]) -> dict[int, int]:
    depths: dict[int, int] = {}
    for key in backbone:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key):
            stage, block = map(int, match.groups())
            depths[stage] = max(depths.get(stage, 0), block + 1)
    return depths


def _usual_index(index: Tensor) -> Tensor | None:
    window = math.isqrt(len(index)) if index.dim() == 2 else 0
    return relative_positions(window, index.device) if window else None


def _usual_mask(mask: Tensor) -> Tensor | None:
    """Return the mask of square maps with as many windows, shifted by half a window."""
    if mask.dim() != 3:
        return None
    window, side = math.isqrt(mask.shape[1]), math.isqrt(len(mask))
    cells = (side * window, side * window)
    return shift_mask(cells, window, window // 2, torch.zeros(1)) if window else None


def _masked_stages(buffers: Mapping[str, Entry], masks: Mapping[str, Entry]) -> list[int]:
    """Return the stages whose odd blocks have masks."""
    blocks = {tuple(map(int, re.findall(r"\d+", key)[:2])) for key in buffers}
    masked = {tuple(map(int, re.findall(r"\d+", key)[:2])) for key in masks}
    stages = {stage for stage, _ in masked}
    if masked != {(stage, block) for stage, block in blocks if stage in stages and block % 2}:
        raise UserError(
            f"The masks of shifted windows in the file stand at the blocks {sorted(masked)} (stage, "
            f"block), where an intact network here shifts every other block of a stage."
        )
    return sorted(stages)


def _shifted_stages(options: Mapping[str, Any]) -> list[int]:
    """Return the stages that are shifted in an extracted network, if it could be an intact one.

    Raises:
        UserError: it is none: blocks were left out of it, or its patch norm is cut.
    """
    if options["stem_width"] != options["width"]:
        raise _wider_stem(options["stem_width"], options["width"])
    shifts: Sequence[Sequence[int]] = options["shifts"]
    usual = [[i % 2 * (options["window"] // 2) for i in range(len(own))] for own in shifts]
    different = [
        own for own, all_ in zip(shifts, usual, strict=True) if any(own) and list(own) != all_
    ]
    if different:
        raise UserError(
            f"The config.json beside the file says that blocks of a stage are shifted by {different[0]}: the "
            f"network was extracted without some of its blocks, and an intact one here shifts every "
            f"other block. Import what it was extracted from."
        )
    return [s for s, (own, all_) in enumerate(zip(shifts, usual, strict=True)) if list(own) == all_]


def _refuse_wider_stem(backbone: Mapping[str, Tensor], width: int) -> None:
    keys = [
        f"patch_embed.{key}" for key in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
    ]
    sizes = {len(backbone[key]) for key in keys if key in backbone and backbone[key].dim()}
    if len(sizes) == 1 and max(sizes) > width:
        raise _wider_stem(max(sizes), width)


def _wider_stem(stem: Any, width: Any) -> UserError:
    return UserError(
        f"The file's patch norm is over {stem} channels of which {width} go on (it was extracted with "
        f"student.swin.patch_norm=full), and an intact network here has as many of both. Import what it "
        f"was extracted from."
    )


def _refuse_what_the_tool_writes(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse the sizes that the published extraction tool writes, unless the user says that they are intact."""
    size = (own["max_width"], tuple(own["max_depths"]))
    stated = {"student.swin.max_width", "student.swin.max_depths"} <= given.keys()
    if size in EXTRACTED and not stated:
        depths = str(own["max_depths"]).replace(" ", "")
        raise UserError(
            f"A Swin of width {size[0]} and depths {depths} in the published format can be what the "
            f"published extraction tool wrote, and nothing in the tensors tells: its patch norm is cut, "
            f"and where blocks were left out their shifts are lost, so features would be wrong. "
            f"Import the checkpoint that it was extracted from; if this "
            f"is a network that was trained at this size, say so with --config "
            f"student.swin.max_width={size[0]} student.swin.max_depths={depths}."
        )
