"""Elastic layers over feature maps (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from torch import Tensor, nn

from poa_plugin.elastic import norms, slicing


class ElasticGroupNorm(nn.GroupNorm):
    """Group normalization over the channels that its input has: as many groups, of fewer channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, c, H, W) maps, c <= C."""
        return self.sliced_fn(x.shape[1])(x)

    def sliced_fn(self, channels: int) -> Callable[[Tensor], Tensor]:
        """Return the normalization of maps with this many channels; its parameters are sliced once."""
        weight, bias = self._active(channels)
        return lambda x: norms.group_norm(x, self.num_groups, weight, bias, self.eps)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`."""
        weight, bias = self._active(slicing.active_size(self.num_channels, width_ratio))
        return {"weight": weight, "bias": bias}

    def _active(self, channels: int) -> tuple[Tensor, Tensor]:
        return slicing.leading(self.weight, channels), slicing.leading(self.bias, channels)


class ElasticConv2d(nn.Conv2d):
    """A convolution whose input, and by default output, narrow together (POA eq. 2, 3).

    Args:
        in_channels, out_channels: at full width.
        kernel_size, stride, padding, bias: of `nn.Conv2d`.
        fixed_input: the input always has its full width; the output's is an argument of the call.
        fixed_output: the output keeps its full width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        fixed_input: bool = False,
        fixed_output: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.fixed_input, self.fixed_output = fixed_input, fixed_output

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        """Map (B, c, H, W) to (B, o, h, w) with c, o the active widths; inputs are scaled by alpha.

        Args:
            x: inputs.
            out_channels: where the input is fixed; the full width if None.
        """
        return self.sliced_fn(x.shape[1], out_channels)(x)

    def sliced_fn(self, fan_in: int, out_channels: int | None = None) -> Callable[[Tensor], Tensor]:
        """Return the convolution of maps with this many channels; its weight is sliced once."""
        weight, bias = self._active(fan_in, out_channels or self._fan_out(fan_in))
        return lambda x: self._conv_forward(x, weight, bias)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `Elastic.sliced`; alpha is folded into the weight."""
        full_in, full_out = self.in_channels, self.out_channels
        fan_in = full_in if self.fixed_input else slicing.active_size(full_in, width_ratio)
        fan_out = full_out if self.fixed_output else slicing.active_size(full_out, width_ratio)
        weight, bias = self._active(fan_in, fan_out)
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def _active(self, fan_in: int, fan_out: int) -> tuple[Tensor, Tensor | None]:
        alpha = slicing.input_scale(self.in_channels, fan_in)
        # The weight is scaled, not the inputs, which mostly have more elements.
        weight = slicing.matrix(self.weight, fan_out, fan_in, alpha=alpha)
        return weight, None if self.bias is None else slicing.leading(self.bias, fan_out)

    def _fan_out(self, fan_in: int) -> int:
        if self.fixed_output or self.fixed_input:
            return self.out_channels
        return self.out_channels * fan_in // self.in_channels
