"""What the published code calls things, and what we call them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.interop.published import head_key
from poa_plugin.interop.published import vit_key as backbone_key

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
    }
}  # fmt: skip
"""Names of backbone options, by family: published to ours."""


FIXED = {
    "vit": {
        "in_chans": 3,
        "ffn_layer": "mlp",
        "num_register_tokens": 0,
        "interpolate_antialias": False,
        "interpolate_offset": 0.1,
    }
}
"""Options of the published code for which we have one value only."""

WITHOUT_EFFECT = {"img_size", "arch", "block_chunks", "pretrained_weights"}
"""Set elsewhere here, or a matter of parameter names only."""


def backbone_words(family: str, options: dict[str, Any]) -> list[str]:
    """Return the words that set a family's options from the published names.

    Raises:
        UserError: an option, or its value, has no counterpart of ours.
    """
    names, fixed = OPTIONS[family], FIXED[family]
    if family == "vit":
        options = {"width_interval": options.get("head_dim", 64), **options}
    words = []
    for key, value in options.items():
        if key in WITHOUT_EFFECT or fixed.get(key, ...) == value:
            continue
        if key not in names:
            raise UserError(f"no counterpart of {key}={value}")
        words.append(f"student.{family}.{names[key]}={'null' if value is None else value}")
    return words


def student_key(key: str) -> str:
    """Return our name of a published student parameter, `backbone.` or `dino_head.`."""
    part, _, inner = key.partition(".")
    return f"{part}.{backbone_key(inner) if part == 'backbone' else head_key(inner)}"


def rename(state: dict[str, Tensor], prefix: str, rule: Any) -> dict[str, Tensor]:
    """Return the entries of `state` under `prefix`, renamed by `rule`."""
    return {
        rule(key.removeprefix(prefix)): value
        for key, value in state.items()
        if key.startswith(prefix)
    }
