"""Elastic layers against the published rule, written out by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import (
    ElasticConv2d,
    ElasticLayerNorm,
    ElasticLayerScale,
    ElasticLinear,
)


def test_a_linear_layer_scales_its_input_but_not_its_bias() -> None:
    layer, x = ElasticLinear(12, 24), torch.randn(2, 5, 8)
    expected = F.linear(x * (12 / 8), layer.weight[:16, :8], layer.bias[:16])
    torch.testing.assert_close(layer(x), expected)


def test_fused_projections_keep_the_front_of_each_group() -> None:
    layer, x = ElasticLinear(12, 36, groups=3), torch.randn(2, 5, 8)
    rows = [*range(8), *range(12, 20), *range(24, 32)]
    expected = F.linear(x * (12 / 8), layer.weight[rows][:, :8], layer.bias[rows])
    torch.testing.assert_close(layer(x), expected)


def test_a_fixed_output_has_its_full_width() -> None:
    layer, x = ElasticLinear(12, 7, fixed_output=True), torch.randn(3, 8)
    torch.testing.assert_close(layer(x), F.linear(x * 1.5, layer.weight[:, :8], layer.bias))


def test_without_bias_the_input_is_scaled_too() -> None:
    layer, x = ElasticLinear(12, 24, bias=False), torch.randn(3, 8)
    torch.testing.assert_close(layer(x), F.linear(x * 1.5, layer.weight[:16, :8]))


def test_at_full_width_layers_are_the_ordinary_ones() -> None:
    x = torch.randn(2, 5, 12)
    linear, norm = ElasticLinear(12, 24, groups=3), ElasticLayerNorm(12)
    assert torch.equal(linear(x), nn.Linear.forward(linear, x))
    assert torch.equal(norm(x), nn.LayerNorm.forward(norm, x))
    assert slicing.matrix(linear.weight, 24, 12, 3) is linear.weight
    assert slicing.leading(norm.weight, 12) is norm.weight


def test_norm_scale_and_stem_use_leading_channels() -> None:
    x = torch.randn(2, 5, 8)
    norm, scale, stem = ElasticLayerNorm(12, eps=1e-6), ElasticLayerScale(12, 0.1), None
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(scale.gamma)
    expected = F.layer_norm(x, (8,), norm.weight[:8], norm.bias[:8], 1e-6)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(scale(x), x * scale.gamma[:8])
    stem = ElasticConv2d(3, 12, kernel_size=4, stride=4, fixed_input=True)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(stem(images, 8), stem(images)[:, :8])


def test_gradients_land_in_the_leading_corner() -> None:
    layer = ElasticLinear(12, 24, groups=3)
    layer(torch.randn(2, 8)).square().sum().backward()
    active = torch.zeros(3, 8, 12, dtype=torch.bool)
    active[:, :5, :8] = True  # of a group of 8 outputs 8 * 8 // 12 = 5 are active
    assert torch.equal(layer.weight.grad != 0, active.flatten(0, 1))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_gradient_of_a_scaled_corner(groups: int, alpha: float) -> None:
    weight = torch.randn(12, 12, dtype=torch.double, requires_grad=True)
    rows = [12 // groups * group + row for group in range(groups) for row in range(9 // groups)]
    columns = [6 * group + column for group in range(2) for column in range(4)]
    corner = slicing.matrix(weight, 9, 8, groups, in_groups=2, alpha=alpha)
    expected = weight[rows][:, columns] * alpha
    assert torch.equal(corner, expected)
    upstream = torch.randn(9, 8, dtype=torch.double)
    [grad] = torch.autograd.grad(corner, weight, upstream)
    [expected_grad] = torch.autograd.grad(expected, weight, upstream)
    assert torch.equal(grad, expected_grad)


def test_a_ratio_off_the_channel_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        slicing.active_size(10, Fraction(1, 3))


@pytest.mark.parametrize("fan_in", [8, 12])
def test_sliced_parameters_make_the_ordinary_layer(fan_in: int) -> None:
    layer, x = ElasticLinear(12, 36, groups=3), torch.randn(4, fan_in)
    plain = nn.Linear(fan_in, 3 * fan_in)
    plain.load_state_dict(layer.sliced(Fraction(fan_in, 12)), strict=True)
    torch.testing.assert_close(plain(x), layer(x))
