"""The Swin transformer's architecture, read off tensors under this package's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from poa_plugin.backbones.staged import N_STAGES
from poa_plugin.backbones.swin.options import ELASTIC_STAGE
from poa_plugin.errors import UserError
from poa_plugin.formats.description import mlp_ratio
from poa_plugin.interop.families import (
    LOCAL_CROP,
    Family,
    Tensors,
    described_image_size,
    most_common,
    multiple,
    narrowest,
    of_stages,
    section,
    stage_depths,
)

NARROWEST, SHALLOWEST = 3 / 4, 1 / 3
"""Where a range starts in relation to the intact network: the paper's 96 of 128 and 6 of 18."""
EXTRACTED = ((96, [2, 2, 6, 2]), (96, [2, 2, 18, 2]))
"""Width and depths of what the published extraction tool writes; its third network is the intact one."""
BLOCKS = r"layers\.(\d+)\.blocks\.(\d+)\."


class SwinFamily(Family):
    """See `Family`."""

    name = "swin"
    signs = ({"patch_embed", "layers"}, {"patch_embed", "stages"})
    others: Mapping[str, str] = {
        r"\.attn\.(logit_scale|cpb_mlp|q_bias|v_bias|relative_coords_table)(\.|$)": "Swin V2's cosine "
        "attention",
        r"(^|\.)absolute_pos_embed$": "absolute positions",
    }
    pretraining = r"mask_token|norm[0-2]\..*"
    buffers = r".*\.(attn\.relative_position_index|attn_mask)"

    def metadata(self, buffers: Tensors, description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.metadata`: the stages that are shifted, the image size, upsampling."""
        metadata = described_image_size(description)
        options = section(section(description, "poa"), "options")
        masked = {int(re.findall(r"\d+", key)[0]) for key in buffers if key.endswith("attn_mask")}
        shifted = "student.swin.shifted_stages"
        if masked:
            metadata[shifted] = sorted(masked)
        if {"shifts", "window"} <= options.keys():
            metadata[shifted] = _shifted_stages(options["shifts"], options["window"] // 2)
        elif section(description, "model_args").get("always_partition"):
            metadata[shifted] = list(range(N_STAGES))
        if "ibot_scale_factor" in options:
            metadata["student.swin.ibot_scale_factor"] = options["ibot_scale_factor"]
        return metadata

    def architecture(self, backbone: Tensors) -> dict[str, Any]:
        """See `Family.architecture`."""
        width, depths = _width(backbone), stage_depths(backbone, BLOCKS)
        if not width or len(depths) != N_STAGES or 0 in depths:
            raise UserError(
                f"The file's backbone has stages of {depths} blocks, where a Swin here has {N_STAGES} stages "
                f"of blocks with norms."
            )
        tables = [
            (stage, table)
            for stage, table in of_stages(backbone, BLOCKS + r"attn\.relative_position_bias_table")
            if table.dim() == 2
        ]
        window = most_common((math.isqrt(len(table)) + 1) // 2 for _, table in tables)
        head_dim = most_common(width * 2**s // max(table.shape[1], 1) for s, table in tables)
        weights = of_stages(backbone, BLOCKS + r"mlp\.fc1\.weight")
        hidden = most_common(weight.numel() // (width * 4**stage) for stage, weight in weights)
        patches = backbone.get("patch_embed.proj.weight", torch.empty(0)).numel()
        proved = {
            "max_width": width,
            "max_depths": depths,
            "window_size": window or 7,
            "head_dim": head_dim or math.gcd(width, 32),
            "patch_size": math.isqrt(patches // (3 * width)) or 4,
            "mlp_ratio": mlp_ratio(width, hidden or 4 * width),
            "qkv_bias": any(key.endswith(".attn.qkv.bias") for key in backbone),
        }
        return {f"student.swin.{key}": value for key, value in proved.items()}

    def choices(
        self, proved: Mapping[str, Any], inferred: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: ranges in the paper's proportions, the patch norm, shifts, crops."""
        is_published = format_name == "poa"
        sizes = {key.removeprefix("student.swin."): value for key, value in proved.items()}
        width, depths, head_dim = (sizes[key] for key in ("max_width", "max_depths", "head_dim"))
        if is_published and (width, depths) in EXTRACTED:
            _refuse_extracted(width, depths, inferred)
        stride = sizes["patch_size"] * 2 ** (N_STAGES - 1)
        native = 224 if is_published else sizes["window_size"] * stride
        image = inferred.get("crops.global_crops_size") or native
        cells = [image // sizes["patch_size"] // 2**stage for stage in range(N_STAGES)]
        shifted = [s for s, n in enumerate(cells) if is_published or n > sizes["window_size"]]
        return {
            "student.swin.min_width": narrowest(width, head_dim, sizes["mlp_ratio"], NARROWEST),
            "student.swin.width_step": head_dim,
            "student.swin.min_depth": math.ceil(SHALLOWEST * depths[ELASTIC_STAGE]),
            "student.swin.depth_step": 1,
            "student.swin.patch_norm": "full" if is_published else "active",
            "student.swin.shifted_stages": inferred.get("student.swin.shifted_stages", shifted),
            "crops.global_crops_size": image,
            "crops.local_crops_size": multiple(LOCAL_CROP * image, stride),
        }


def _width(backbone: Tensors) -> int:
    """Return the width of the first stage; 0 if no block has a norm."""
    norms = of_stages(backbone, BLOCKS + r"norm[12]\.(weight|bias)")
    return most_common(norm.numel() // 2**stage for stage, norm in norms)


def _shifted_stages(shifts: list[list[int]], shift: int) -> list[int]:
    """Return the stages that are shifted in an extracted network, if every other block is, or none."""
    shifted = []
    for stage, blocks in enumerate(shifts):
        alternating = [i % 2 * shift for i in range(len(blocks))]
        if list(blocks) == alternating:
            shifted.append(stage)
        elif any(blocks):
            raise UserError(
                f"The config.json beside the file says that blocks of a stage are shifted by {blocks}: the "
                f"network was extracted without some of its blocks, and an intact one here shifts every "
                f"other block. Import what it was extracted from."
            )
    return shifted


def _refuse_extracted(width: int, depths: list[int], inferred: Mapping[str, Any]) -> None:
    """Refuse what the published extraction tool can have written, unless the user sets these sizes."""
    keys = ("student.swin.max_width", "student.swin.max_depths")
    if not set(keys) <= inferred.keys():
        raise UserError(
            f"A Swin of width {width} and depths {depths} in the published format can be what the published "
            f"extraction tool wrote: its patch norm is cut and its blocks' shifts are lost, which no tensor "
            f"shows. Import the checkpoint that it was extracted from; if this network was trained at this "
            f"size, say so: --config {keys[0]}={width} '{keys[1]}={depths}'."
        )
