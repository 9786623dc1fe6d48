"""Files as the published code writes them, made from our weights: its names, groups and layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poa_plugin.backbones.swin.windows import relative_positions


def backbone_key(key: str, chunks: int = 0, depth: int = 0) -> str:
    """The published name of one of our backbone parameters; chunked if asked for."""
    key = re.sub(r"(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)$", r"\1.linear.\2", key)
    key = re.sub(r"(^|\.)(norm1|norm2|norm)\.(weight|bias)$", r"\1\2.norm.\3", key)
    if chunks:
        size = depth // chunks
        key = re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // size}.{m[1]}", key)
    return key


def head_key(key: str) -> str:
    """The published name of one of our head parameters."""
    head, part, rest = key.split(".", 2)
    if part == "last_layer":
        return f"last_layer{head}.{rest}"
    return f"mlp{head}.{rest.replace('0.', '0.linear.', 1) if rest.startswith('0.') else rest}"


def swin_key(key: str) -> str:
    """The published name of one of our Swin's parameters."""
    key = re.sub(r"^norm\.", "norm3.", key)
    key = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", key)
    key = re.sub(r"^layers\.", "stages.", key).replace(".attn.", ".attn.w_msa.")
    key = key.replace(".mlp.", ".ffn.")
    linear = r"(w_msa\.qkv|w_msa\.proj|ffn\.fc\d|downsample\.reduction)\.(weight|bias)$"
    key = re.sub(linear, r"\1.linear.\2", key)
    return re.sub(r"(^|\.)(norm\d?)\.(weight|bias)$", r"\1\2.norm.\3", key)


def resnet_key(key: str) -> str:
    """The published name of one of our ResNet's parameters."""
    key = re.sub(r"^(layer\d+\.)(\d+\.)", r"\1layers.\2", key)
    key = re.sub(r"\.(conv\d)\.weight$", r".\1.conv.weight", key)
    return re.sub(r"(^|\.)bn(\d)\.", r"\1norm\2.", key)


KEYS = {"vit": backbone_key, "swin": swin_key, "resnet": resnet_key}


def published_key(key: str, family: str = "vit") -> str:
    """The published name of `backbone.<name>` or `dino_head.<name>`."""
    part, _, inner = key.partition(".")
    return f"{part}.{KEYS[family](inner) if part == 'backbone' else head_key(inner)}"


def published_order(key: str, tensor: Tensor) -> Tensor:
    """A tensor, or a moment, with the four cells of a merging row by row, as published."""
    merging = ".downsample.norm." in key or ".downsample.reduction." in key
    if not merging or not tensor.dim():
        return tensor
    top_left, bottom_left, top_right, bottom_right = tensor.chunk(4, dim=-1)
    return torch.cat([top_left, top_right, bottom_left, bottom_right], dim=-1)


def module_order(branch: Mapping[str, Tensor], family: str = "vit") -> dict[str, Tensor]:
    """Our branch as published: names, order of channels, and order of the modules' parameters.

    Backbones begin with class token, positions and mask token; a merging follows the blocks of its
    stage; the MLPs of all heads stand in front of all prototypes.
    """
    tokens = [f"backbone.{key}" for key in ("cls_token", "pos_embed", "mask_token")]
    tokens = [key for key in tokens if key in branch]
    body = [k for k in branch if k.startswith("backbone.") and k not in tokens]
    if family == "swin":
        body.sort(key=_place)
    mlps = [k for k in branch if k.startswith("dino_head.") and ".mlp." in k]
    lasts = [k for k in branch if k.startswith("dino_head.") and ".mlp." not in k]
    published = {}
    for key in [*tokens, *body, *mlps, *lasts]:
        name = published_key(key, family)
        published[name] = published_order(key, branch[key])
        if name.endswith("bias_table"):
            window = (math.isqrt(len(branch[key])) + 1) // 2
            index = name.replace("bias_table", "index")
            published[index] = relative_positions(window, branch[key].device)
    return published


def _place(key: str) -> tuple[int, ...]:
    """Where a parameter of our Swin stands in the published module."""
    name = published_key(key, "swin").removeprefix("backbone.")
    if name.startswith("stages."):
        return 1, int(name.split(".")[1]), int(".downsample." in name)
    return (2, int(name[4])) if name.startswith("norm") else (0,)


def groups(names: list[str], settings: Mapping[str, tuple]) -> Iterator[tuple[tuple, list[str]]]:
    """The published optimizer's groups: of each sub-module, equal settings fused."""
    for part in dict.fromkeys(name.split(".")[0] for name in names):
        fused: dict[tuple, list[str]] = {}
        for name in names:
            if name.startswith(f"{part}."):
                fused.setdefault(tuple(settings[name]), []).append(name)
        yield from fused.items()


def optimizer_state(
    names: list[str],
    settings: Mapping[str, tuple],
    moments: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Any]:
    """A `torch.optim.AdamW.state_dict()` as the published loop leaves it: NumPy learning rates."""
    state, param_groups, number = {}, [], 0
    for (lr, wd, is_last), members in groups(names, settings):
        ids = list(range(number, number + len(members)))
        number += len(members)
        for i, name in zip(ids, members, strict=True):
            if moments.get(name):
                state[i] = dict(moments[name])
        param_groups.append(
            {
                "lr_multiplier": lr,
                "wd_multiplier": wd,
                "is_last_layer": is_last,
                "lr": np.float64(0.001) * lr,
                "weight_decay": np.float64(0.04) * wd,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "foreach": True,
                "params": ids,
            }
        )
    return {"state": state, "param_groups": param_groups}
