"""The options that all isotropic backbones have: ranges of widths and depths, patches, stochastic depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poa_plugin.backbones.option_checks import DEEPEST, WIDEST
from poa_plugin.config.fields import number, switch


@dataclass
class IsotropicOptions:
    """Options of an isotropic backbone; a family adds its own, and may declare these with other defaults."""

    min_width: int = number(384, "narrowest network", at_least=1, at_most=WIDEST)
    max_width: int = number(
        1024,
        "the intact network's width",
        at_least=1,
        at_most=WIDEST,
        synonyms=("width", "embed_dim", "dim"),
    )
    width_step: int = number(64, "from one width to the next", at_least=1, at_most=WIDEST)
    min_depth: int = number(12, "blocks of the shallowest network", at_least=1, at_most=DEEPEST)
    max_depth: int = number(
        24,
        "blocks of the intact network",
        at_least=1,
        at_most=DEEPEST,
        synonyms=("depth", "n_blocks"),
    )
    depth_step: int = number(1, "from one depth to the next", at_least=1, at_most=DEEPEST)
    patch_size: int = number(16, "side of a patch", at_least=1, at_most=1024, unit="pixels")
    drop_path_rate: float = number(
        0.2,
        "stochastic depth of both students",
        at_least=0,
        below=1,
        synonyms=("drop_path", "stochastic_depth"),
    )
    drop_path_uniform: bool = switch(
        True, "the same rate in all blocks, or rising linearly from 0 to it"
    )
    net_select_scale: float = number(
        3.0,
        "how much more often the smallest width, and depth, is drawn",
        at_least=1,
        at_most=100,
    )


def drop_path_rates(options: Any) -> list[float]:
    """Return the stochastic-depth rate of each block of the intact network."""
    rate, depth = options.drop_path_rate, options.max_depth
    if options.drop_path_uniform:
        return [rate] * depth
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
