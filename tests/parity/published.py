"""What the published code calls things, and what we call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.interop import formats
from poa_plugin.interop.formats import head_key, reorder_merged

OPTIONS = {
    "vit": {
        "min_embed_dim": "min_width",
        "max_embed_dim": "max_width",
        "width_interval": "width_step",
        "depth_interval": "depth_step",
        "init_values": "layerscale",
        **{
            name: name
            for name in (
                "min_depth", "max_depth", "head_dim", "patch_size", "mlp_ratio",
                "qkv_bias", "proj_bias", "ffn_bias", "layerscale", "drop_path_rate",
                "drop_path_uniform", "net_select_scale",
            )
        },
    },
    "swin": {
        "min_embed_dim": "min_width",
        "max_embed_dim": "max_width",
        "width_interval": "width_step",
        "min_s3_depth": "min_depth",
        **{
            name: name
            for name in (
                "max_depths", "head_dim", "patch_size", "window_size", "mlp_ratio", "qkv_bias",
                "drop_path_rate", "net_select_scale", "ibot_scale_factor",
            )
        },
    },
    "resnet": {
        "min_width": "min_width",
        "max_width": "max_width",
        "width_step": "width_step",
        "out_width": "out_width",
        "stem_channels": "stem_width",
        "num_gn_groups": "groups",
        **{
            name: name
            for name in (
                "min_depths", "max_depths", "strides", "net_select_scale", "ibot_scale_factor",
            )
        },
    },
}  # fmt: skip
"""Names of backbone options, by family: published to ours."""

FIXED = {
    "vit": {
        "in_chans": 3,
        "ffn_layer": "mlp",
        "num_register_tokens": 0,
        "interpolate_antialias": False,
        "interpolate_offset": 0.1,
    },
    "swin": {},
    "resnet": {},
}
"""Options of the published code for which we have one value only."""

ALWAYS = {"vit": [], "swin": ["patch_norm=full"], "resnet": ["decay_shortcut_norm=true"]}
"""What the published code does, and we do when told."""

WITHOUT_EFFECT = {"img_size", "arch", "block_chunks", "pretrained_weights"}
"""Set elsewhere here, or a matter of parameter names only."""


def backbone_words(family: str, options: dict[str, Any]) -> list[str]:
    """Return the words that set a family's options from the published names.

    Raises:
        UserError: an option, or its value, has no counterpart of ours.
    """
    names, fixed = OPTIONS[family], FIXED[family]
    if family in ("vit", "swin"):
        options = {"width_interval": options.get("head_dim", 64), **options}
    if family == "resnet":
        options = dict(options)
        base = options.pop("base_channels", 64)
        inner = {"min_width": base, "max_width": 2 * base, "width_step": base // 2}
        options |= {**inner, "out_width": 4 * base}
    words = [f"student.{family}.{word}" for word in ALWAYS[family]]
    for key, value in options.items():
        if key in WITHOUT_EFFECT or fixed.get(key, ...) == value:
            continue
        if key not in names:
            raise UserError(f"no counterpart of {key}={value}")
        words.append(f"student.{family}.{names[key]}={'null' if value is None else value}")
    return words


def network(width: Any, depth: Any) -> Subnet:
    """Return the sub-network of a published width and depth, of which lists go through the stages."""
    if isinstance(depth, list):
        return Subnet(width[0], depths=tuple(depth))
    return Subnet(width, depth)


def linear_layers(family: str, subnet: Subnet) -> list[int] | None:
    """Return the blocks, or stages, of the four-layer linear evaluation; None where it asserts."""
    if family != "vit":
        return [0, 1, 2, 3]
    depth = subnet.depth
    if depth < 6:
        return None
    return [round(depth / 4), round(depth / 2), round(3 * depth / 4), depth - 1]


def backbone_key(family: str) -> Callable[[str], str]:
    """Return the rule for the names of a family's backbone parameters."""
    return functools.partial(formats.backbone_key, formats.FORMATS[0], family)


def student_key(family: str) -> Callable[[str], str]:
    """Return the rule for the names of student parameters, `backbone.` or `dino_head.`."""
    rule = backbone_key(family)

    def key(name: str) -> str:
        part, _, inner = name.partition(".")
        return f"{part}.{rule(inner) if part == 'backbone' else head_key(inner)}"

    return key


def rename(state: dict[str, Tensor], prefix: str, rule: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the entries of `state` under `prefix`, renamed by `rule` and in our order of channels.

    Tables of indices are left out: they are no parameters.
    """
    renamed = {}
    for name, value in state.items():
        if name.startswith(prefix) and not name.endswith("relative_position_index"):
            key = rule(name.removeprefix(prefix))
            renamed[key] = reorder_merged(key, value)
    return renamed
