"""A linear layer whose input is worked out again in the backward pass, in place of being stored.

Of a transformer block's activations, those that follow a normalisation or an activation function are
half the memory and next to none of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def linear_after(
    before: Callable[..., Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    alpha: float = 1.0,
) -> Tensor:
    """Return `alpha * before(x, *parameters) @ weight.T + bias`, keeping no more than `x`.

    Args:
        before: a cheap function of (N, i) inputs and its parameters, such as a normalisation.
        x: (N, i).
        parameters: of `before`.
        weight: (o, i), sliced already.
        bias: (o,) or None; not scaled.
        alpha: the factor that makes up for missing inputs.

    Returns:
        (N, o).
    """
    out = _LinearAfter.apply(before, alpha, weight, bias, x, *parameters)
    return cast(Tensor, out)


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        before: Callable[..., Tensor],
        alpha: float,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.before, ctx.alpha, ctx.has_bias = before, alpha, bias is not None
        ctx.save_for_backward(weight, x, *parameters)
        y = before(x, *parameters)
        if bias is None:
            return (y if alpha == 1 else y * alpha) @ weight.t()
        return torch.addmm(bias, y, weight.t(), alpha=alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad
        with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
            wanted = [
                x.detach().requires_grad_(needs)
                for x, needs in zip(inputs, needed[4:], strict=True)
            ]
            y = ctx.before(*wanted)
        by_weight = by_bias = None
        product = y.detach().to(grad.dtype)
        if needed[2]:
            by_weight = (grad.t() @ product).to(weight.dtype)
            by_weight = by_weight if ctx.alpha == 1 else by_weight.mul_(ctx.alpha)
        if ctx.has_bias and needed[3]:
            by_bias = grad.sum(0)
        found: list[Tensor | None] = [None] * len(wanted)
        differentiable = [i for i, x in enumerate(wanted) if x.requires_grad]
        if differentiable:
            by_product = grad @ weight.to(grad.dtype)
            by_product = by_product if ctx.alpha == 1 else by_product.mul_(ctx.alpha)
            own = torch.autograd.grad(
                y, [wanted[i] for i in differentiable], by_product.to(y.dtype)
            )
            for i, value in zip(differentiable, own, strict=True):
                found[i] = value
        return None, None, by_weight, by_bias, *found
