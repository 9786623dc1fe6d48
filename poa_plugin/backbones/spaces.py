"""Checks of the ranges from which a search space is made, and of image sizes."""

from __future__ import annotations

from collections.abc import Sequence

from poa_plugin.errors import UserError


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


def check_heads(width: int, head_dim: int) -> None:
    """Raise a `UserError` if a width is no whole number of attention heads."""
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
    for width in widths:
        check_heads(width, head_dim)
        if hidden * width % full:
            raise UserError(
                f"An MLP of {hidden} units at width {full} has no whole number of units at width "
                f"{width}: choose another mlp_ratio."
            )


def check_stages(name: str, depths: Sequence[int], n_stages: int) -> tuple[int, ...]:
    """Return the blocks of every stage.

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


def check_patches(size: Sequence[int], patch: int) -> None:
    """Raise a `UserError` if images of (height, width) pixels do not divide into patches."""
    if size[0] % patch or size[1] % patch:
        raise UserError(
            f"Images of {size[0]} x {size[1]} pixels do not divide into patches of {patch}."
        )
