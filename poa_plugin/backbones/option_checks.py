"""Checks of the ranges from which a search space is made, and of image sizes."""

from __future__ import annotations

from collections.abc import Sequence

from poa_plugin.errors import UserError

WIDEST, DEEPEST, HIGHEST_RATIO = 2**15, 512, 64
"""The largest width, number of blocks, and MLP ratio that options declare."""
MOST_PATCHES = 2**18
"""The most patches of a global crop."""
MOST_DRAWS = 10**6
"""The most entries of the list that elastic students are drawn from."""


def steps(what: str, low: int, high: int, step: int) -> list[int]:
    """Return low, low + step, ..., high.

    Args:
        what: `width` or `depth`, for the error.
        low, high, step: of the options `min_<what>`, `max_<what>` and `<what>_step`.

    Raises:
        UserError: the steps do not end at `high`.
    """
    if not 0 < low <= high or step <= 0 or (high - low) % step:
        raise UserError(
            f"The {what}s {low}..{high} in steps of {step} do not end at {high}, the intact "
            f"network's {what}: choose min_{what}, max_{what} and {what}_step so that they do."
        )
    return list(range(low, high + 1, step))


def check_space_size(n_members: int, net_select_scale: float, axes: int = 2) -> None:
    """Raise a `UserError` if a search space is too large to be listed.

    Args:
        n_members: sub-networks.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        axes: along which that varies.
    """
    n_draws = n_members * max(1.0, (net_select_scale + 1) / 2) ** axes
    if n_draws > MOST_DRAWS:
        raise UserError(
            f"The search space has {n_members} sub-networks, which with net_select_scale="
            f"{net_select_scale:g} stand {n_draws:.0f} times in the list that training draws from: at most "
            f"{MOST_DRAWS} are possible. Narrow the ranges of widths and depths, or widen their steps."
        )


def check_heads(width: int, head_dim: int) -> None:
    """Raise a `UserError` if a width is not a whole number of attention heads."""
    if head_dim < 1 or width % head_dim:
        below = width // max(head_dim, 1)
        raise UserError(
            f"The head dimension {head_dim} does not divide the width {width}: the "
            f"nearest widths are {below * head_dim} and {(below + 1) * head_dim}."
        )


def check_widths(widths: Sequence[int], full: int, hidden: int, head_dim: int) -> None:
    """Raise a `UserError` if a width has no whole number of heads, or of MLP units.

    Args:
        widths: of the members.
        full, hidden: the intact network's width, and its MLP's.
        head_dim: of all members.
    """
    if hidden < 1:
        raise UserError(f"An MLP at width {full} has no units: choose a larger mlp_ratio.")
    for width in widths:
        check_heads(width, head_dim)
        if hidden * width % full:
            raise UserError(
                f"An MLP of {hidden} units at width {full} has no whole number of units at width "
                f"{width}: choose another mlp_ratio."
            )


def check_stages(name: str, depths: Sequence[int], n_stages: int) -> tuple[int, ...]:
    """Return the blocks of each stage.

    Args:
        name: of the option, for the error.
        depths: its value.
        n_stages: how many stages there are.

    Raises:
        UserError: it is another number of stages, or a stage has no block.
    """
    if len(depths) != n_stages or min(depths) < 1:
        raise UserError(
            f"The option {name} is {list(depths)}: it needs {n_stages} numbers of blocks, one for each "
            f"stage, none of them 0."
        )
    return tuple(depths)


def check_crop(image_size: int, patch: int) -> None:
    """Raise a `UserError` if a global crop does not divide into patches, or into too many."""
    try:
        check_patches((image_size, image_size), patch)
    except UserError as error:
        near = sorted({max(image_size // patch, 1) * patch, (image_size // patch + 1) * patch})
        raise UserError(
            f"The key 'crops.global_crops_size' is {image_size}: {str(error)[0].lower()}{str(error)[1:-1]}; "
            f"the nearest sizes are {' and '.join(map(str, near))}."
        ) from error
    if (image_size // patch) ** 2 > MOST_PATCHES:
        raise UserError(
            f"The key 'crops.global_crops_size' is {image_size}, which makes {(image_size // patch) ** 2} "
            f"patches of {patch} x {patch} pixels: at most {MOST_PATCHES} are possible."
        )


def check_patches(size: Sequence[int], patch: int) -> None:
    """Raise a `UserError` if images of (height, width) pixels do not divide into patches."""
    if size[0] % patch or size[1] % patch:
        raise UserError(
            f"Images of {size[0]} x {size[1]} pixels do not divide into patches of {patch}."
        )
