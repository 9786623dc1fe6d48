"""The vision transformer's architecture, read off tensors under this package's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.vit.plain import interpolate_position
from poa_plugin.errors import UserError
from poa_plugin.formats.description import mlp_ratio as ratio_of
from poa_plugin.interop.families import (
    LOCAL_CROP,
    Family,
    Tensors,
    most_common,
    multiple,
    narrowest,
    section,
)

HEAD_DIMS = {1280: 80, 1408: 88, 1664: 104}
"""Of timm's wider networks; up to a width of 1024 its plain ones have heads of 64."""
NARROWEST, SHALLOWEST = 3 / 8, 1 / 2
"""Where a range starts in relation to the intact network: the paper's 384 of 1024 and 12 of 24."""


class ViTFamily(Family):
    """See `Family`."""

    name = "vit"
    signs = ({"blocks", "patch_embed"},)
    others: Mapping[str, str] = {
        r"(^|\.)(register_tokens|reg_token)$": "register tokens",
        r"(^|\.)dist_token$": "a distillation token",
        r"\.mlp\.(w12|w1|w2|w3|fc1_g|fc1_x|norm)\.": "gated (SwiGLU) or normed MLPs",
        r"(^|\.)norm_pre\.": "a norm before the first block",
        r"(^|\.)fc_norm\.": "a norm after average pooling in place of the final norm",
        r"\.attn\.(q_norm|k_norm|norm)\.": "norms on queries and keys",
        r"\.attn\.(relative_position|rel_pos)": "relative positions",
    }

    def metadata(self, buffers: Tensors, description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.metadata`: the head dimension."""
        arguments = section(description, "model_args")
        width, heads = arguments.get("embed_dim"), arguments.get("num_heads")
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            return {"student.vit.head_dim": width // heads}
        return {}

    def architecture(self, backbone: Tensors) -> dict[str, Any]:
        """See `Family.architecture`."""
        numels = {name: x.numel() for name, x in backbone.items()}
        width = most_common(
            n for name, n in numels.items() if re.search(r"(^|\.)norm[12]?\.(weight|bias)$", name)
        )
        blocks = [int(name.split(".")[1]) for name in numels if name.startswith("blocks.")]
        if not width or not blocks:
            raise UserError("There are no blocks with norms in the file's backbone.")
        hidden = most_common(n for name, n in numels.items() if name.endswith("mlp.fc1.weight"))
        patch = math.isqrt(numels.get("patch_embed.proj.weight", 0) // (3 * width)) or 16
        proved: dict[str, Any] = {
            "student.vit.max_width": width,
            "student.vit.max_depth": 1 + max(blocks),
            "student.vit.patch_size": patch,
            "student.vit.mlp_ratio": ratio_of(width, hidden // width or 4 * width),
        }
        for key, name in (
            ("qkv_bias", "attn.qkv.bias"),
            ("proj_bias", "attn.proj.bias"),
            ("ffn_bias", "mlp.fc1.bias"),
        ):
            proved[f"student.vit.{key}"] = any(other.endswith(name) for other in numels)
        if not any(name.endswith("ls1.gamma") for name in numels):
            proved["student.vit.layerscale"] = None
        if side := _side(numels.get("pos_embed", 0), width):
            proved["crops.global_crops_size"] = patch * side
        return proved

    def choices(
        self, proved: Mapping[str, Any], inferred: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: the head dimension, ranges in the paper's proportions, crops."""
        width, depth = proved["student.vit.max_width"], proved["student.vit.max_depth"]
        patch = proved["student.vit.patch_size"]
        usual = HEAD_DIMS.get(width, 0) if format_name == "timm" and width > 1024 else 64
        head_dim = inferred.get("student.vit.head_dim") or usual
        if not head_dim or width % head_dim:
            raise UserError(
                f"Weights of width {width} do not tell how many attention heads share it: add "
                f"--config student.vit.head_dim=... (the width of one head)."
            )
        mlp_ratio = proved["student.vit.mlp_ratio"]
        image = inferred.get("crops.global_crops_size") or proved.get(
            "crops.global_crops_size", 224
        )
        return {
            "student.vit.head_dim": head_dim,
            "student.vit.min_width": narrowest(width, head_dim, mlp_ratio, NARROWEST),
            "student.vit.width_step": head_dim,
            "student.vit.min_depth": math.ceil(SHALLOWEST * depth),
            "student.vit.depth_step": 1,
            "crops.local_crops_size": multiple(LOCAL_CROP * image, patch),
            "evaluation.crop_size": multiple(224, patch),
        }

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """See `Family.resized`: positions, as the forward pass would; timm's may lack the class token's."""
        if name != "pos_embed":
            return tensor
        width, count = shape[-1], tensor.numel() // shape[-1]
        side = _side(tensor.numel(), width)
        if tensor.numel() % width or count not in (side**2, side**2 + 1):
            return tensor
        positions = tensor.reshape(1, -1, width)
        if count == side**2:
            positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        grid = math.isqrt(shape[1] - 1)
        return interpolate_position(positions, (grid, grid))


def _side(elements: int, width: int) -> int:
    """Return how many positions are in a row of the grid; 0 if there are no patches' positions."""
    count = elements // width
    return math.isqrt(count) if count > 1 else 0
