"""The elastic Swin's section of the configuration, its checks, and the sizes with names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from poa_plugin.backbones import staged
from poa_plugin.backbones.spaces import check_patches, check_stages
from poa_plugin.backbones.swin import SwinShape
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError, did_you_mean

SIZES = {"tiny": Subnet(96, 6), "small": Subnet(96, 18), "base": Subnet(128, 18)}
"""The members of the paper's space that have names of their own (Swin-T, Swin-S, Swin-B)."""
ELASTIC_STAGE = 2
"""The stage whose depth varies."""
PATCH_NORMS = ("active", "full")


@dataclass
class SwinOptions:
    """Section `student.swin` of the configuration: the paper's Swin-T .. Swin-B by default.

    Every other block of the `shifted_stages` is shifted. timm's and the original Swin leave out stages whose
    map is a single window.
    """

    min_width: int = 96
    max_width: int = 128
    width_step: int = 16
    min_depth: int = 6
    depth_step: int = 1
    max_depths: list[int] = field(default_factory=lambda: [2, 2, 18, 2])
    head_dim: int = 16
    window_size: int = 7
    shifted_stages: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    patch_size: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: str = "active"
    drop_path_rate: float = 0.2
    net_select_scale: float = 2.0
    ibot_scale_factor: int = 2


def intact_shape(options: SwinOptions, image_size: int) -> SwinShape:
    """Return the sizes of the intact network; every other block of a shifted stage is shifted by half a window.

    Raises:
        UserError: the options contradict one another.
    """
    check_patches((image_size, image_size), options.patch_size)
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
