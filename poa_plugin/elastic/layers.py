"""Elastic layers: ordinary torch layers that run at the width of their input.

A layer reads its input width off its input and uses the leading slice of its weights. The width of its
output is set at construction: proportional to the input, fixed, or an argument of the call. At full width
it is the layer it inherits from, and nothing is sliced or multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from poa_plugin.elastic import norms, slicing
from poa_plugin.elastic.maps import ElasticConv2d, ElasticGroupNorm
from poa_plugin.elastic.recompute import recomputing_linear, scaled_linear

InputFunction = tuple[Callable[..., Tensor], Sequence[Tensor]]
"""A cheap function of tokens and parameters, and the parameters."""


class Elastic(Protocol):
    """What an elastic module offers beside its forward pass."""

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """Return the parameters, without its children's, of the ordinary module at this width ratio."""
        ...


def sliced_parameters(module: nn.Module, width_ratio: Fraction) -> dict[str, Tensor]:
    """Return a module's parameters, without its children's, at a width ratio; unsliced if it is not elastic."""
    if hasattr(module, "sliced"):
        return cast(Elastic, module).sliced(width_ratio)
    return dict(module.named_parameters(recurse=False))


class LayerScale(nn.Module):
    """Learned factor for each channel of a residual branch (CaiT; DINOv2 `layer_scale.py`).

    Args:
        dim: channels.
        init_value: the factor at the start.
    """

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., D) tokens."""
        return x * self.gamma


class ElasticLayerScale(LayerScale):
    """Layer scale; a narrow input uses its leading factors."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., d) tokens, d <= D."""
        return x * slicing.leading(self.gamma, x.shape[-1])

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`."""
        return {
            "gamma": slicing.leading(self.gamma, slicing.active_size(len(self.gamma), width_ratio))
        }


class ElasticLinear(nn.Linear):
    """A linear layer whose input, and by default output, narrow together (POA eq. 2, 3).

    Args:
        in_features: inputs at full width.
        out_features: outputs at full width.
        bias: whether there is one; it is sliced but never scaled.
        groups: equal groups of outputs, each sliced by itself (3 for a fused projection of queries, keys
            and values).
        fixed_output: the output keeps its full width (the first layer of a projection head).
        in_groups: equal groups of inputs (4 where 2 x 2 patches are merged).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        groups: int = 1,
        fixed_output: bool = False,
        in_groups: int = 1,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.groups, self.in_groups = groups, in_groups
        self.fixed_output = fixed_output

    def forward(
        self, x: Tensor, input_function: InputFunction | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Map (..., i) to (..., o) with i, o the active widths; inputs are scaled by alpha.

        Args:
            x: inputs.
            input_function: is applied to the inputs first, and again in the backward pass. It may map (N, i)
                to another number of rows.
            scale: (o,) factors of the outputs, folded into weight and bias.
        """
        fan_in = x.shape[-1]
        weight, bias = self._active(fan_in)
        alpha = slicing.input_scale(self.in_features, fan_in)
        if input_function is None and scale is None:
            return scaled_linear(x, weight, bias, alpha)
        function, parameters = input_function or (_identity, ())
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            rows = x.reshape(-1, fan_in)
            out = recomputing_linear(function, rows, parameters, weight, bias, alpha, scale)
            return out if x.dim() == 2 else out.view(*x.shape[:-1], out.shape[-1])
        return scaled_linear(function(x, *parameters), weight, bias, alpha, scale)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`; alpha is folded into the weight."""
        fan_in = slicing.active_size(self.in_features, width_ratio)
        weight, bias = self._active(fan_in)
        if fan_in != self.in_features:
            weight = weight * slicing.input_scale(self.in_features, fan_in)
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def _active(self, fan_in: int) -> tuple[Tensor, Tensor | None]:
        fan_out = self.fan_out(fan_in)
        weight = slicing.matrix(self.weight, fan_out, fan_in, self.groups, self.in_groups)
        if self.bias is None:
            return weight, None
        return weight, slicing.leading(self.bias, fan_out, groups=self.groups)

    def fan_out(self, fan_in: int) -> int:
        """Return the number of outputs for a number of inputs."""
        if self.fixed_output:
            return self.out_features
        return self.groups * (self.out_features // self.groups * fan_in // self.in_features)


def _identity(x: Tensor) -> Tensor:
    return x.view_as(x)


class ElasticLayerNorm(nn.LayerNorm):
    """Layer normalization over the channels that its input has.

    Args:
        width: channels at full width.
        eps: added to the variance.
        groups: equal groups of channels, each sliced by itself.
    """

    def __init__(self, width: int, eps: float = 1e-5, groups: int = 1) -> None:
        super().__init__(width, eps)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., d) tokens, d <= D."""
        function, parameters = self.sliced_fn(x.shape[-1])
        return function(x, *parameters)

    def sliced_fn(self, width: int) -> InputFunction:
        """Return the normalization of tokens of a width, an input function of `ElasticLinear`."""

        def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return norms.layer_norm(x, weight, bias, self.eps)

        return normalize, self._active(width)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`."""
        weight, bias = self._active(slicing.active_size(self.normalized_shape[0], width_ratio))
        return {"weight": weight, "bias": bias}

    def _active(self, width: int) -> tuple[Tensor, Tensor]:
        weight = slicing.leading(self.weight, width, groups=self.groups)
        return weight, slicing.leading(self.bias, width, groups=self.groups)


class PlainLayers:
    """The ordinary layers of an extracted network; arguments that only elastic layers need are ignored."""

    layer_scale: type[LayerScale] = LayerScale

    @staticmethod
    def linear(
        fan_in: int, fan_out: int, bias: bool = True, groups: int = 1, in_groups: int = 1
    ) -> nn.Linear:
        """Return a linear layer; `groups` and `in_groups` are ignored."""
        return nn.Linear(fan_in, fan_out, bias)

    @staticmethod
    def layer_norm(width: int, eps: float = 1e-5, groups: int = 1) -> nn.LayerNorm:
        """Return a layer normalization; `groups` is ignored."""
        return nn.LayerNorm(width, eps)

    @staticmethod
    def group_norm(groups: int, channels: int) -> nn.GroupNorm:
        """Return a group normalization."""
        return nn.GroupNorm(groups, channels)

    @staticmethod
    def conv(
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        fixed_input: bool = False,
        fixed_output: bool = False,
    ) -> nn.Conv2d:
        """Return a convolution; `fixed_input` and `fixed_output` are ignored."""
        return nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=bias)


class ElasticLayers(PlainLayers):
    """The elastic layers, under the same names."""

    layer_scale = ElasticLayerScale

    @staticmethod
    def linear(
        fan_in: int, fan_out: int, bias: bool = True, groups: int = 1, in_groups: int = 1
    ) -> nn.Linear:
        """Return a linear layer whose output narrows in proportion to its input."""
        return ElasticLinear(fan_in, fan_out, bias, groups, in_groups=in_groups)

    @staticmethod
    def layer_norm(width: int, eps: float = 1e-5, groups: int = 1) -> nn.LayerNorm:
        """Return an elastic layer normalization."""
        return ElasticLayerNorm(width, eps, groups)

    @staticmethod
    def group_norm(groups: int, channels: int) -> nn.GroupNorm:
        """Return an elastic group normalization."""
        return ElasticGroupNorm(groups, channels)

    @staticmethod
    def conv(
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        fixed_input: bool = False,
        fixed_output: bool = False,
    ) -> nn.Conv2d:
        """Return an elastic convolution."""
        return ElasticConv2d(
            fan_in, fan_out, kernel, stride, padding, bias, fixed_input, fixed_output
        )


class MultiInputBlock:
    """Mixin that lets a block take the inputs of all sub-networks of a step in one call.

    Sharded parameters are gathered once for the call, and ranks whose elastic students skip different
    blocks still call the same blocks in the same order. A block defines `run`.
    """

    def forward(self, inputs: list[Any], *extras: Sequence[Any]) -> list[Any]:
        """Run each input that is not None, with its entry of each list in `extras`."""
        return [
            None if x is None else self.run(x, *extra)
            for x, *extra in zip(inputs, *extras, strict=True)
        ]

    def run(self, x: Any, *extra: Any) -> Any:
        """Run the input of one sub-network."""
        raise NotImplementedError
