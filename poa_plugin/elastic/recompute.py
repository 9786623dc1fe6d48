"""A linear layer that recomputes its input in the backward pass instead of storing it.

Half of a transformer block's activation memory follows a normalization or an activation function, and
recomputing it takes next to no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def recomputing_linear(
    input_function: Callable[..., Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    alpha: float = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """Return `scale * (alpha * input_function(x, *parameters) @ weight.T + bias)`; saves only `x` of the input.

    Args:
        input_function: a cheap function of (N, i) inputs and its parameters, such as a normalization.
        x: (N, i).
        parameters: of `input_function`.
        weight: (o, i), already sliced.
        bias: (o,) or None; alpha is not applied to it.
        alpha: the factor that makes up for missing inputs.
        scale: (o,) factors of the outputs, multiplied into weight and bias, or None.

    Returns:
        (N, o).
    """
    out = _RecomputingLinear.apply(input_function, alpha, weight, bias, scale, x, *parameters)
    return cast(Tensor, out)


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: float = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """Return `scale * (alpha * x @ weight.T + bias)` of (..., i) inputs; nothing is multiplied by one."""
    weight = _scale_outputs(weight, scale)
    bias = None if bias is None else _scale_outputs(bias, scale)
    if alpha == 1:
        return F.linear(x, weight, bias)
    if bias is None:
        return F.linear(x * alpha, weight)
    out = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight.t(), alpha=alpha)
    return out.view(*x.shape[:-1], out.shape[-1])


class _RecomputingLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_function: Callable[..., Tensor],
        alpha: float,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.input_function, ctx.alpha, ctx.autocast = input_function, alpha, _autocast_dtype(x)
        ctx.save_for_backward(weight, bias, scale, x, *parameters)
        return scaled_linear(input_function(x, *parameters), weight, bias, alpha, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, scale, *inputs = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[2:]
        with torch.autocast(grad.device.type, enabled=False):  # the products' types are explicit
            leaves = [
                x.detach().requires_grad_(needs)
                for x, needs in zip(inputs, needs_grad[3:], strict=True)
            ]
            with torch.enable_grad(), _restored_autocast(grad.device.type, ctx.autocast):
                y = ctx.input_function(*leaves)
            weight_grads = _weight_grads(
                grad, y.detach(), weight, bias, scale, ctx.alpha, needs_grad
            )
            input_grads: list[Tensor | None] = [None] * len(leaves)
            differentiable = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
            if differentiable:
                factor = weight if ctx.alpha == 1 else weight * ctx.alpha  # smaller than grad_y
                grad_y = grad @ _scale_outputs(factor, scale).to(grad.dtype)
                grads = torch.autograd.grad(
                    y, [leaves[i] for i in differentiable], grad_y.to(y.dtype)
                )
                for i, leaf_grad in zip(differentiable, grads, strict=True):
                    input_grads[i] = leaf_grad
        return None, None, *weight_grads, *input_grads


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return autocast's current type on the device of `x`; None where it is off."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _restored_autocast(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return a context with the forward pass's autocast, whose type `_autocast_dtype` returned."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(device, dtype=dtype, cache_enabled=False)


def _weight_grads(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    alpha: float,
    needs_grad: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of weight, bias and scale; None for those that need none."""
    if not any(needs_grad[:3]):
        return None, None, None
    product = (grad.t() @ y.to(grad.dtype)).to(weight.dtype)
    product = product if alpha == 1 else product.mul_(alpha)
    total = _summed_rows(grad).to(weight.dtype)
    grad_scale = None
    if scale is not None and needs_grad[2]:
        grad_scale = (product * weight).sum(1)
        grad_scale = grad_scale if bias is None else grad_scale + total * bias
    grad_weight = _scale_outputs(product, scale) if needs_grad[0] else None
    grad_bias = _scale_outputs(total, scale) if bias is not None and needs_grad[1] else None
    return grad_weight, grad_bias, grad_scale


def _summed_rows(x: Tensor) -> Tensor:
    """Return the sum of (N, o) rows; a matrix product, for which a CPU takes half of a sum's time."""
    if x.device.type != "cpu":
        return x.sum(0)
    return (x.new_ones(1, len(x)) @ x).squeeze(0)


def _scale_outputs(parameter: Tensor, scale: Tensor | None) -> Tensor:
    """Return a weight's rows, or a bias, multiplied by a scale of the outputs."""
    if scale is None:
        return parameter
    return parameter * (scale.unsqueeze(1) if parameter.dim() == 2 else scale)
