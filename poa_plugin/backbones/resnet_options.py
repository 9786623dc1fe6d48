"""The elastic ResNet's section of the configuration, its checks, and the sizes with names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from poa_plugin.backbones import staged
from poa_plugin.backbones.resnet import ResNetShape
from poa_plugin.backbones.spaces import check_stages
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError

SIZES = {
    "r50": Subnet(64, depths=(3, 4, 6, 3)),
    "r101": Subnet(64, depths=(3, 4, 23, 3)),
    "r152": Subnet(64, depths=(3, 8, 36, 3)),
}
"""The members of the paper's space that have names of their own (ResNet-50, -101, -152)."""


@dataclass
class ResNetOptions:
    """Section `student.resnet` of the configuration: the paper's 465 networks by default."""

    min_width: int = 64
    max_width: int = 128
    width_step: int = 32
    min_depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    max_depths: list[int] = field(default_factory=lambda: [3, 8, 36, 3])
    stem_width: int = 64
    out_width: int = 256
    strides: list[int] = field(default_factory=lambda: [1, 2, 2, 2])
    groups: int = 32
    net_select_scale: float = 2.0
    decay_shortcut_norm: bool = False
    ibot_scale_factor: int = 2


def intact_shape(options: ResNetOptions, widths: Sequence[int], image_size: int) -> ResNetShape:
    """Return the sizes of the intact network.

    Raises:
        UserError: the options contradict one another.
    """
    most = check_stages("student.resnet.max_depths", options.max_depths, staged.N_STAGES)
    least = check_stages("student.resnet.min_depths", options.min_depths, staged.N_STAGES)
    check_stages("student.resnet.strides", options.strides, staged.N_STAGES)
    if any(a > b for a, b in zip(least, most, strict=True)):
        raise UserError(
            f"The option student.resnet.min_depths is {list(least)}: no stage may have more blocks "
            f"than in max_depths, {list(most)}."
        )
    for name, channels in [
        *[("width", width) for width in widths],
        ("stem_width", options.stem_width),
        ("out_width", options.out_width),
    ]:
        _check_groups(name, channels, options.groups)
    return ResNetShape(
        image_size=image_size,
        stem_width=options.stem_width,
        width=options.max_width,
        out_width=options.out_width,
        depths=most,
        strides=tuple(options.strides),
        groups=options.groups,
        ibot_scale_factor=options.ibot_scale_factor,
    )


def _check_groups(name: str, channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        below = channels // max(groups, 1) * groups
        raise UserError(
            f"The option student.resnet.groups is {groups}, which does not divide {name} {channels}: the "
            f"nearest are {below} and {below + groups}."
        )
