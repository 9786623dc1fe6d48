"""The vision transformer's architecture, read off tensors under this package's names."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.vit.plain import interpolate_position
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.formats.description import mlp_ratio
from poa_plugin.interop.families import Family
from poa_plugin.interop.layout import Entry
from poa_plugin.interop.proportions import LOCAL_CROP, multiple, section

TIMM_HEAD_DIMS = {1280: 80, 1408: 88, 1664: 104}
"""Head dimensions of timm's wider networks; up to a width of 1024 its plain ones have 64."""
NARROWEST, SHALLOWEST = 3 / 8, 1 / 2
"""Where a range starts in relation to the intact network: the paper's 384 of 1024 and 12 of 24."""


class VisionTransformerFamily(Family):
    """See `Family`."""

    name = "vit"
    reasons: Mapping[str, str] = {
        r"(^|\.)(register_tokens|reg_token)$": "register tokens, which every other token attends to: "
        "the backbone here has none, and without them every output would be another network's",
        r"\.mlp\.(w12|w1|w2|w3|fc1_g|fc1_x|norm)\.": "a gated (SwiGLU) or normed MLP, where the "
        "backbone here has two linear layers and a GELU",
        r"(^|\.)norm_pre\.": "a norm before the first block, which the backbone here has not",
        r"(^|\.)fc_norm\.": "a norm after average pooling in the place of the final norm on tokens",
        r"(^|\.)dist_token$": "a distillation token, to which every other token attends",
        r"\.attn\.(q_norm|k_norm|norm)\.": "norms on queries and keys, which the backbone here has not",
        r"\.attn\.(relative_position|rel_pos)": "relative positions, which the backbone here has not",
    }

    missing_reasons: Mapping[str, str] = {
        r"(^|\.)norm\.(weight|bias)$": "files that the published extraction tool wrote lack the final "
        "norm: import the whole checkpoint and extract from the run",
    }

    def recognizes(self, names: Collection[str]) -> bool:
        """See `Family.recognizes`."""
        parts = {name.split(".")[0] for name in names}
        return {"blocks", "patch_embed"} <= parts

    def told(self, buffers: Mapping[str, Entry], description: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.told`: the head dimension."""
        arguments = section(description, "model_args")
        width, heads = arguments.get("embed_dim"), arguments.get("num_heads")
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            return {"student.vit.head_dim": width // heads}
        return {}

    def complete(self, backbone: dict[str, Entry], format_name: str) -> list[str]:
        """See `Family.complete`: timm has no mask token, and may have no position of the class token."""
        lines = []
        cls_token, positions = backbone.get("cls_token"), backbone.get("pos_embed")
        if format_name == "timm" and "mask_token" not in backbone and cls_token is not None:
            zeros = torch.zeros(1, *cls_token.tensor.shape[-1:])
            backbone["mask_token"] = Entry("mask_token", zeros)
            lines.append("The file has no mask token: it starts at zero.")
        if format_name == "timm" and positions is not None and _lacks_cls(positions.tensor):
            table = positions.tensor
            with_cls = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
            backbone["pos_embed"] = Entry(positions.key, with_cls)
            lines.append("The file has no position of the class token: it is zero, as there.")
        return lines

    def architecture(self, backbone: Mapping[str, Tensor]) -> dict[str, Any]:
        """See `Family.architecture`.

        A shape that occurs most often is taken for the network's, so that a misshapen tensor is
        found to be the one that does not fit.
        """
        blocks = [re.match(r"blocks\.(\d+)\.", name) for name in backbone]
        numbers = [int(match.group(1)) for match in blocks if match]
        norms = [len(x) for name, x in backbone.items() if _is_norm(name) and x.dim() == 1]
        if not numbers or not norms:
            raise UserError("There are no blocks with norms in the file's backbone.")
        depth = 1 + max(numbers)
        width = mode(norms)
        patches = [x for name, x in backbone.items() if name == "patch_embed.proj.weight"]
        patch = max(patches[0].shape[-1], 1) if patches and patches[0].dim() == 4 else 16
        section: dict[str, Any] = {
            "max_width": width,
            "max_depth": depth,
            "patch_size": patch,
            "mlp_ratio": mlp_ratio(width, _hidden(backbone, width)),
            "qkv_bias": _in_most_blocks(backbone, depth, "attn.qkv.bias"),
            "proj_bias": _in_most_blocks(backbone, depth, "attn.proj.bias"),
            "ffn_bias": _in_most_blocks(backbone, depth, "mlp.fc1.bias"),
        }
        if not _in_most_blocks(backbone, depth, "ls1.gamma"):
            section["layerscale"] = None
        known: dict[str, Any] = {f"student.vit.{key}": value for key, value in section.items()}
        positions = backbone.get("pos_embed")
        if positions is not None and positions.dim() == 3:
            known["crops.global_crops_size"] = patch * math.isqrt(max(positions.shape[1] - 1, 1))
        return known

    def choices(
        self, known: Mapping[str, Any], given: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """See `Family.choices`: the head dimension, ranges in the paper's proportions, crops."""
        width, depth = known["student.vit.max_width"], known["student.vit.max_depth"]
        patch = known["student.vit.patch_size"]
        head_dim = given.get("student.vit.head_dim") or _head_dim(width, format_name)
        narrowest = math.ceil(NARROWEST * width / head_dim) * head_dim
        hidden = int(width * known["student.vit.mlp_ratio"])
        if hidden * head_dim % width:
            narrowest = width  # narrower networks would have no whole number of MLP units
        image = given.get("crops.global_crops_size") or known.get("crops.global_crops_size", 224)
        return {
            "student.vit.head_dim": head_dim,
            "student.vit.min_width": narrowest,
            "student.vit.width_step": head_dim,
            "student.vit.min_depth": math.ceil(SHALLOWEST * depth),
            "student.vit.depth_step": 1,
            "crops.local_crops_size": multiple(LOCAL_CROP * image, patch),
            "evaluation.crop_size": multiple(224, patch),
        }

    def adapt(self, backbone: dict[str, Tensor], config: Config) -> list[str]:
        """See `Family.adapt`: resizes positions as the forward pass would."""
        table = backbone.get("pos_embed")
        if table is None or table.dim() != 3:
            return []
        side = math.isqrt(max(table.shape[1] - 1, 1))
        wanted = config.crops.global_crops_size // config.student.vit.patch_size
        if side == wanted or side**2 + 1 != table.shape[1]:
            return []
        backbone["pos_embed"] = interpolate_position(table, (wanted, wanted))
        return [
            f"Positions are resized from {side} x {side} to the {wanted} x {wanted} patches of "
            f"crops.global_crops_size={config.crops.global_crops_size}."
        ]


def _lacks_cls(table: Tensor) -> bool:
    count = table.shape[1] if table.dim() == 3 else 2
    return count > 1 and math.isqrt(count) ** 2 == count


def _is_norm(name: str) -> bool:
    return re.search(r"(^|\.)(norm1|norm2|norm)\.weight$", name) is not None


def _hidden(backbone: Mapping[str, Tensor], width: int) -> int:
    """Return the MLP's hidden width; a gated MLP gives half of what its first layer puts out."""
    firsts = [x for name, x in backbone.items() if name.endswith("fc1.weight") and x.dim() == 2]
    seconds = [x for name, x in backbone.items() if name.endswith("fc2.weight") and x.dim() == 2]
    if not firsts:
        return 4 * width
    hidden = mode([len(x) for x in firsts])
    if seconds and hidden == 2 * mode([x.shape[1] for x in seconds]):
        raise UserError(
            f"The file's MLPs are gated: 'fc1' puts out {hidden} units of which 'fc2' takes half; "
            f"the backbone here has two linear layers and a GELU."
        )
    return hidden


def _in_most_blocks(backbone: Mapping[str, Tensor], depth: int, name: str) -> bool:
    return 2 * sum(f"blocks.{i}.{name}" in backbone for i in range(depth)) >= depth


def _head_dim(width: int, format_name: str) -> int:
    head_dim = 64
    if format_name == "timm" and width > 1024:
        head_dim = TIMM_HEAD_DIMS.get(width, 0)
    if not head_dim or width % head_dim:
        raise UserError(
            f"Weights of width {width} do not tell how many attention heads share it: add "
            f"--config student.vit.head_dim=... (the width of one head)."
        )
    return head_dim
