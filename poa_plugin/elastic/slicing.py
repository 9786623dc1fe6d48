"""The only code that cuts a weight (POA eq. 2, 3).

The forward pass of an elastic network and the extraction of an ordinary one both call these
functions, so that the two cannot disagree. All of them return views where a view exists, and the
parameter itself where nothing is cut away.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor


def active_size(full: int, share: Fraction) -> int:
    """Return how many of `full` channels a share of the width keeps.

    Raises:
        ValueError: the share does not fall on a whole channel.
    """
    size = full * share
    if size.denominator != 1:
        raise ValueError(f"{share} of {full} channels is not a whole number of channels")
    return size.numerator


def input_scale(full: int, active: int) -> float:
    """Return the factor alpha that makes up for missing inputs: full / active fan-in (POA eq. 2)."""
    return full / active


def leading(parameter: Tensor, size: int, dim: int = -1) -> Tensor:
    """Return the first `size` entries of `parameter` along `dim`."""
    return parameter if parameter.shape[dim] == size else parameter.narrow(dim, 0, size)


def leading_rows(parameter: Tensor, size: int, groups: int = 1) -> Tensor:
    """Return the leading slice of each of `groups` equal groups along the first dimension.

    `size` counts the rows of all groups together. The fused projection of queries, keys and values
    has three groups: heads are kept from the front of each.
    """
    if parameter.shape[0] == size:
        return parameter
    if groups == 1:
        return parameter.narrow(0, 0, size)
    grouped = parameter.unflatten(0, (groups, -1))
    return grouped.narrow(1, 0, size // groups).flatten(0, 1)


def matrix(weight: Tensor, fan_out: int, fan_in: int, groups: int = 1) -> Tensor:
    """Return the active corner of a linear or convolution weight (out, in, ...), not yet scaled."""
    if weight.shape[:2] == (fan_out, fan_in):
        return weight
    return cast(Tensor, _Corner.apply(weight, fan_out, fan_in, groups))


class _Corner(torch.autograd.Function):
    """The slice of a matrix along both dimensions, whose gradient is laid into zeros once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, fan_out: int, fan_in: int, groups: int) -> Tensor:
        ctx.shape, ctx.groups = weight.shape, groups
        return leading_rows(leading(weight, fan_in, dim=1), fan_out, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        whole = grad.new_zeros(ctx.shape)
        rows = whole.unflatten(0, (ctx.groups, -1))
        corner = rows[:, : len(grad) // ctx.groups, : grad.shape[1]]
        corner.copy_(grad.unflatten(0, (ctx.groups, -1)))
        return whole, None, None, None
