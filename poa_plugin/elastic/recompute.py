"""A linear layer whose input is worked out again in the backward pass, in place of being stored.

Of a transformer block's activations, those that follow a normalization or an activation function are
half the memory and next to none of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_after(
    before: Callable[..., Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    alpha: float = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """Return `scale * (alpha * before(x, *parameters) @ weight.T + bias)`, keeping no more than `x`.

    Args:
        before: a cheap function of (N, i) inputs and its parameters, such as a normalization.
        x: (N, i).
        parameters: of `before`.
        weight: (o, i), sliced already.
        bias: (o,) or None; alpha is not applied to it.
        alpha: the factor that makes up for missing inputs.
        scale: (o,) factors of the outputs, multiplied into weight and bias, or None.

    Returns:
        (N, o).
    """
    out = _LinearAfter.apply(before, alpha, weight, bias, scale, x, *parameters)
    return cast(Tensor, out)


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: float = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """Return `scale * (alpha * x @ weight.T + bias)` of (..., i) inputs; nothing is multiplied by one."""
    weight, bias = _times(weight, scale), None if bias is None else _times(bias, scale)
    if alpha == 1:
        return F.linear(x, weight, bias)
    if bias is None:
        return F.linear(x * alpha, weight)
    out = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight.t(), alpha=alpha)
    return out.view(*x.shape[:-1], out.shape[-1])


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        before: Callable[..., Tensor],
        alpha: float,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.before, ctx.alpha, ctx.autocast = before, alpha, _autocast_dtype(x)
        ctx.save_for_backward(weight, bias, scale, x, *parameters)
        return scaled_linear(before(x, *parameters), weight, bias, alpha, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, scale, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        with torch.autocast(grad.device.type, enabled=False):  # the products' types are given
            wanted = [
                x.detach().requires_grad_(needs)
                for x, needs in zip(inputs, needed[3:], strict=True)
            ]
            with torch.enable_grad(), _autocast_again(grad.device.type, ctx.autocast):
                y = ctx.before(*wanted)
            own = _of_weights(grad, y.detach(), weight, bias, scale, ctx.alpha, needed)
            found: list[Tensor | None] = [None] * len(wanted)
            differentiable = [i for i, x in enumerate(wanted) if x.requires_grad]
            if differentiable:
                by_product = grad @ _times(weight, scale).to(grad.dtype)
                by_product = by_product if ctx.alpha == 1 else by_product.mul_(ctx.alpha)
                upstream = by_product.to(y.dtype)
                by_inputs = torch.autograd.grad(y, [wanted[i] for i in differentiable], upstream)
                for i, value in zip(differentiable, by_inputs, strict=True):
                    found[i] = value
        return None, None, *own, *found


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type to which autocast converts now on the device of `x`; None where it is off."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _autocast_again(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return a context with the autocast of the forward pass, given by `_autocast_dtype`."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(device, dtype=dtype, cache_enabled=False)


def _of_weights(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    alpha: float,
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of weight, bias and scale, as far as they are needed."""
    if not any(needed[:3]):
        return None, None, None
    product = (grad.t() @ y.to(grad.dtype)).to(weight.dtype)
    product = product if alpha == 1 else product.mul_(alpha)
    total = grad.sum(0).to(weight.dtype)
    by_scale = None
    if scale is not None and needed[2]:
        by_scale = (product * weight).sum(1)
        by_scale = by_scale if bias is None else by_scale + total * bias
    by_weight = _times(product, scale) if needed[0] else None
    by_bias = _times(total, scale) if bias is not None and needed[1] else None
    return by_weight, by_bias, by_scale


def _times(parameter: Tensor, scale: Tensor | None) -> Tensor:
    """Return a weight's rows, or a bias, multiplied by a scale of the outputs."""
    if scale is None:
        return parameter
    return parameter * (scale.unsqueeze(1) if parameter.dim() == 2 else scale)
