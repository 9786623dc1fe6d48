"""Normalization in the precision of its parameters.

Under autocast a projection or a convolution returns half-precision values. Normalized with float32
parameters they stay in half precision on a CPU; a GPU computes in float32 under autocast, and refuses
the mixture outside it. Here they are converted first, so that every device computes the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize (..., d) values over their channels; the output has the precision of the (d,) weight."""
    return F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize (B, c, ...) maps by groups; the output has the precision of the (c,) weight."""
    return F.group_norm(x.to(weight.dtype), groups, weight, bias, eps)


def normalize(norm: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
    """Run a norm on the output of a projection or a convolution, in the precision of its parameters."""
    out: Tensor = norm(x.to(norm.weight.dtype))
    return out
