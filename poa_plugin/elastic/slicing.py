"""The only code that slices a weight (POA eq. 2, 3).

The forward pass of an elastic network and the extraction of an ordinary one both call these
functions, so that the two cannot disagree. All of them return views where possible, and the parameter
itself at full width.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor


def active_size(full: int, width_ratio: Fraction) -> int:
    """Return how many of `full` channels are active at a width ratio.

    Raises:
        ValueError: that is not a whole number of channels.
    """
    size = full * width_ratio
    if size.denominator != 1:
        raise ValueError(f"{width_ratio} of {full} channels is not a whole number of channels")
    return size.numerator


def input_scale(full: int, active: int) -> float:
    """Return the factor alpha that makes up for missing inputs: full / active fan-in (POA eq. 2)."""
    return full / active


def leading(parameter: Tensor, size: int, dim: int = -1, groups: int = 1) -> Tensor:
    """Return the first entries of each of `groups` equal groups along `dim`, `size` of them in all.

    The fused projection of queries, keys and values has three groups of rows, each with the leading heads
    first; the projection that merges 2 x 2 patches has four groups of columns.
    """
    if parameter.shape[dim] == size:
        return parameter
    if groups == 1:
        return parameter.narrow(dim, 0, size)
    dim %= parameter.dim()
    grouped = parameter.unflatten(dim, (groups, -1))
    return grouped.narrow(dim + 1, 0, size // groups).flatten(dim, dim + 1)


def matrix(
    weight: Tensor,
    fan_out: int,
    fan_in: int,
    groups: int = 1,
    in_groups: int = 1,
    alpha: float = 1.0,
) -> Tensor:
    """Return the active corner of a linear or convolution weight (out, in, ...), times `alpha`.

    `groups` and `in_groups` are equal groups of outputs and of inputs, each sliced by itself. At full width
    the result is the weight, and `alpha` is not used.
    """
    if weight.shape[:2] == (fan_out, fan_in):
        return weight
    corner = cast(Tensor, _Corner.apply(weight, fan_out, fan_in, groups, in_groups))
    return corner if alpha == 1 else corner * alpha


class _Corner(torch.autograd.Function):
    """The slice of a matrix along both dimensions; its gradient is written into zeros once."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        fan_out: int,
        fan_in: int,
        groups: int,
        in_groups: int,
    ) -> Tensor:
        ctx.shape, ctx.groups, ctx.in_groups = weight.shape, groups, in_groups
        columns = leading(weight, fan_in, dim=1, groups=in_groups)
        return leading(columns, fan_out, dim=0, groups=groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        def grouped(x: Tensor) -> Tensor:
            return x.unflatten(1, (ctx.in_groups, -1)).unflatten(0, (ctx.groups, -1))

        grad_weight, corner = grad.new_zeros(ctx.shape), grouped(grad)
        grouped(grad_weight)[:, : corner.shape[1], :, : corner.shape[3]].copy_(corner)
        return grad_weight, None, None, None, None
