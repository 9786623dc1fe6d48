"""The elastic ResNet's section of the configuration, its checks, and the named sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from poa_plugin.backbones import staged
from poa_plugin.backbones.option_checks import DEEPEST, WIDEST, check_space_size, check_stages
from poa_plugin.backbones.resnet.plain import ResNetShape
from poa_plugin.config.fields import number, numbers, switch
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError

SIZES = {
    "r50": Subnet(64, depths=(3, 4, 6, 3)),
    "r101": Subnet(64, depths=(3, 4, 23, 3)),
    "r152": Subnet(64, depths=(3, 8, 36, 3)),
}
"""The members of the paper's space that have names (ResNet-50, -101, -152)."""


@dataclass
class ResNetOptions:
    """Section `student.resnet` of the configuration: the paper's 465 networks by default."""

    min_width: int = number(
        64,
        "inner channels of the narrowest network's first stage; a multiple of `groups`",
        at_least=1,
        at_most=WIDEST,
    )
    max_width: int = number(
        128,
        "inner channels of the intact network's first stage",
        at_least=1,
        at_most=WIDEST,
        synonyms=("width", "channels"),
    )
    width_step: int = number(32, "from one width to the next", at_least=1, at_most=WIDEST)
    min_depths: list[int] = numbers(
        [3, 4, 6, 3],
        "blocks of the shallowest network's stages",
        at_least=1,
        at_most=DEEPEST,
        length=staged.N_STAGES,
    )
    max_depths: list[int] = numbers(
        [3, 8, 36, 3],
        "blocks of the intact network's stages",
        at_least=1,
        at_most=DEEPEST,
        length=staged.N_STAGES,
        synonyms=("depth", "depths", "layers"),
    )
    stem_width: int = number(
        64, "channels of the stem, in all networks", at_least=1, at_most=WIDEST
    )
    out_width: int = number(
        256, "output channels of the first stage, in all networks", at_least=1, at_most=WIDEST
    )
    strides: list[int] = numbers(
        [1, 2, 2, 2], "of the stages", at_least=1, at_most=16, length=staged.N_STAGES
    )
    groups: int = number(32, "of each group norm", at_least=1, at_most=WIDEST)
    net_select_scale: float = number(
        2.0, "how much more often the shallowest network is drawn", at_least=1, at_most=100
    )
    decay_shortcut_norm: bool = switch(
        False, "decay the factors of the shortcuts' norms, as the published code does"
    )
    ibot_scale_factor: int = number(
        2,
        "how often, in each direction, the last map is upsampled to meet the grid of masks",
        at_least=1,
        at_most=64,
    )


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
    n_depths = prod(b - a + 1 for a, b in zip(least, most, strict=True))
    check_space_size(n_depths * len(widths), options.net_select_scale, axes=1)
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
