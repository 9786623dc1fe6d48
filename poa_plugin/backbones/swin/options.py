"""The elastic Swin's section of the configuration, its checks, and the named sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poa_plugin.backbones import staged
from poa_plugin.backbones.option_checks import (
    DEEPEST,
    HIGHEST_RATIO,
    WIDEST,
    check_crop,
    check_stages,
)
from poa_plugin.backbones.swin.plain import SwinShape
from poa_plugin.config.fields import choice, number, numbers, switch
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError, did_you_mean

SIZES = {"tiny": Subnet(96, 6), "small": Subnet(96, 18), "base": Subnet(128, 18)}
"""The members of the paper's space that have names (Swin-T, Swin-S, Swin-B)."""
ELASTIC_STAGE = 2
"""The stage whose depth varies."""
PATCH_NORMS = ("active", "full")


@dataclass
class SwinOptions:
    """Section `student.swin` of the configuration: the paper's Swin-T .. Swin-B by default.

    Every other block of the `shifted_stages` is shifted. timm's and the original Swin leave out stages whose
    map is a single window.
    """

    min_width: int = number(
        96,
        "channels of the narrowest network's first stage; a multiple of `head_dim`",
        at_least=1,
        at_most=WIDEST,
    )
    max_width: int = number(
        128,
        "channels of the intact network's first stage",
        at_least=1,
        at_most=WIDEST,
        synonyms=("width", "embed_dim", "dim"),
    )
    width_step: int = number(16, "from one width to the next", at_least=1, at_most=WIDEST)
    min_depth: int = number(
        6, "blocks of the shallowest network's third stage", at_least=1, at_most=DEEPEST
    )
    depth_step: int = number(
        1, "from one depth of the third stage to the next", at_least=1, at_most=DEEPEST
    )
    max_depths: list[int] = numbers(
        [2, 2, 18, 2],
        "blocks of the intact network's stages",
        at_least=1,
        at_most=DEEPEST,
        length=staged.N_STAGES,
        synonyms=("depth", "depths"),
    )
    head_dim: int = number(
        16, "channels of an attention head, at every width and stage", at_least=1, at_most=WIDEST
    )
    window_size: int = number(7, "side of a window", at_least=1, at_most=32, unit="cells")
    shifted_stages: list[int] = numbers(
        [0, 1, 2, 3],
        "the stages of which every other block's windows are shifted; timm's and the original Swin leave out "
        "those whose map is a single window",
        at_least=0,
        at_most=staged.N_STAGES - 1,
        length=(0, staged.N_STAGES),
    )
    patch_size: int = number(4, "side of a patch", at_least=1, at_most=1024, unit="pixels")
    mlp_ratio: float = number(
        4.0, "hidden units of an MLP for each channel", above=0, at_most=HIGHEST_RATIO
    )
    qkv_bias: bool = switch(True, "biases of queries, keys and values")
    patch_norm: str = choice(
        "active",
        PATCH_NORMS,
        "the patch embedding's norm is over the channels that a sub-network has, or over the intact network's, "
        "as in the published code (an extracted network is then no ordinary Swin)",
    )
    drop_path_rate: float = number(
        0.2,
        "stochastic depth of the last block, rising linearly from 0 over all blocks",
        at_least=0,
        below=1,
        synonyms=("drop_path", "stochastic_depth"),
    )
    net_select_scale: float = number(
        2.0,
        "how much more often the smallest width, and depth, is drawn",
        at_least=1,
        at_most=100,
    )
    ibot_scale_factor: int = number(
        2,
        "how often, in each direction, the last map is upsampled to meet the grid of masks",
        at_least=1,
        at_most=64,
    )


def intact_shape(options: SwinOptions, image_size: int) -> SwinShape:
    """Return the sizes of the intact network; every other block of a shifted stage is shifted by half a window.

    Raises:
        UserError: the options contradict one another.
    """
    check_crop(image_size, options.patch_size)
    if options.window_size > image_size // options.patch_size:
        raise UserError(
            f"The key 'student.swin.window_size' is {options.window_size}, larger than the first stage's map "
            f"of a global crop, which has {image_size // options.patch_size} cells in a row."
        )
    if options.patch_norm not in PATCH_NORMS:
        raise UserError(
            f"The option student.swin.patch_norm is '{options.patch_norm}': "
            f"{did_you_mean(options.patch_norm, PATCH_NORMS)}."
        )
    depths = check_stages("student.swin.max_depths", options.max_depths, staged.N_STAGES)
    return SwinShape(
        image_size=image_size,
        patch_size=options.patch_size,
        width=options.max_width,
        stem_width=options.max_width,
        shifts=_shifts(depths, options),
        head_dim=options.head_dim,
        window=options.window_size,
        hidden=int(options.max_width * options.mlp_ratio),
        qkv_bias=options.qkv_bias,
        ibot_scale_factor=options.ibot_scale_factor,
    )


def _shifts(depths: Sequence[int], options: SwinOptions) -> list[list[int]]:
    """Return the shift of every block, by stage."""
    shifted = set(options.shifted_stages)
    if not shifted <= set(range(staged.N_STAGES)):
        raise UserError(
            f"The option student.swin.shifted_stages is {sorted(shifted)}: the stages are 0, 1, 2 and 3."
        )
    shift = options.window_size // 2
    return [[(s in shifted) * (i % 2) * shift for i in range(n)] for s, n in enumerate(depths)]
