"""Files as the published code writes them, made from our weights: its names, groups and layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor


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


def published_key(key: str) -> str:
    """The published name of `backbone.<name>` or `dino_head.<name>`."""
    part, _, inner = key.partition(".")
    return f"{part}.{backbone_key(inner) if part == 'backbone' else head_key(inner)}"


def module_order(branch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our branch under published names, in the order of the published modules' parameters.

    Backbones begin with class token, positions and mask token; the MLPs of all heads stand in front
    of all prototypes.
    """
    tokens = ["backbone.cls_token", "backbone.pos_embed", "backbone.mask_token"]
    body = [k for k in branch if k.startswith("backbone.") and k not in tokens]
    mlps = [k for k in branch if k.startswith("dino_head.") and ".mlp." in k]
    lasts = [k for k in branch if k.startswith("dino_head.") and ".mlp." not in k]
    return {published_key(key): branch[key] for key in [*tokens, *body, *mlps, *lasts]}


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
