"""A linear layer that recomputes its input: the same values and gradients, less that is stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.elastic.layers import ElasticLayerNorm, ElasticLinear
from poa_plugin.elastic.recompute import recomputing_linear


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)


CASES = {"norm": (norm, 2), "gelu": (F.gelu, 0)}


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, with_scale: bool, with_bias: bool, alpha: float) -> None:
    input_function, n_parameters = CASES[case]
    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    bias = torch.randn(4, requires_grad=True) if with_bias else None
    parameters = [torch.randn(6, requires_grad=True) for _ in range(n_parameters)]
    scale = torch.randn(4, requires_grad=True) if with_scale else None
    inputs = [x, weight, *parameters, *[p for p in (bias, scale) if p is not None]]
    actual = recomputing_linear(input_function, x, parameters, weight, bias, alpha, scale)
    expected = F.linear(alpha * input_function(x, *parameters), weight, bias)
    expected = expected if scale is None else expected * scale
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn(5, 4)
    pairs = zip(
        torch.autograd.grad(actual, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_that_are_not_needed_are_none() -> None:
    x, weight = torch.randn(5, 6), torch.randn(4, 6, requires_grad=True)
    recomputing_linear(F.gelu, x, (), weight, None).sum().backward()
    assert weight.grad is not None
    weight.requires_grad_(False)
    x.requires_grad_()
    recomputing_linear(F.gelu, x, (), weight, None).sum().backward()
    assert x.grad is not None


def saved_numbers(run: Callable[[], Tensor]) -> int:
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(sizes.values())


@pytest.mark.parametrize("width", [8, 12])
def test_the_output_of_the_norm_is_not_stored(width: int) -> None:
    x = torch.randn(1000, width, requires_grad=True)
    layer_norm, linear = ElasticLayerNorm(12), ElasticLinear(12, 36, groups=3)
    plain = saved_numbers(lambda: linear(layer_norm(x)))
    ours = saved_numbers(lambda: linear(x, input_function=layer_norm.sliced_fn(width)))
    assert plain - ours >= x.numel()
    torch.testing.assert_close(
        linear(x, input_function=layer_norm.sliced_fn(width)), linear(layer_norm(x))
    )
    with torch.no_grad():
        torch.testing.assert_close(
            linear(x, input_function=layer_norm.sliced_fn(width)), linear(layer_norm(x))
        )


def test_under_autocast_products_are_half_precision_and_gradients_float32() -> None:
    layer_norm, linear = ElasticLayerNorm(12), ElasticLinear(12, 24)
    x = torch.randn(50, 8, requires_grad=True)
    gradients = []
    for input_function in (layer_norm.sliced_fn(8), None):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = (
                linear(x, input_function=input_function)
                if input_function
                else linear(layer_norm(x))
            )
        assert out.dtype == torch.bfloat16
        inputs = [x, *linear.parameters(), *layer_norm.parameters()]
        gradients.append(torch.autograd.grad(out.float().square().sum(), inputs))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=0.02 * float(theirs.abs().max()), rtol=0)


def test_a_scale_is_folded_into_the_weights() -> None:
    linear, x, scale = ElasticLinear(12, 24), torch.randn(5, 8), torch.randn(16)
    torch.testing.assert_close(linear(x, scale=scale), linear(x) * scale)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, None])
def test_the_input_function_runs_again_under_the_same_autocast(kind: torch.dtype | None) -> None:
    """And the products do not see an autocast around the backward pass."""
    autocasts = []

    def recording_gelu(x: Tensor) -> Tensor:
        autocasts.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return F.gelu(x)

    gradients = []
    for around in (False, True):
        x, weight = (torch.ones(3, 4) * 1.2345).requires_grad_(), torch.full((2, 4), 0.7)
        weight.requires_grad_()
        with torch.autocast("cpu", dtype=kind, enabled=kind is not None):
            out = recomputing_linear(recording_gelu, x, (), weight, None)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
            out.sum().backward()
        gradients.append((x.grad, weight.grad))
    assert {enabled for enabled, _ in autocasts} == {kind is not None}
    assert kind is None or {dtype for _, dtype in autocasts} == {kind}
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
