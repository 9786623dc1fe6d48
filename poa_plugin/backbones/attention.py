"""One door to attention kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v for each head.

    xFormers' kernel is used where it is installed and the tensors are on a GPU, and PyTorch's
    otherwise.

    Args:
        q, k, v: (B, N, H, d) queries, keys and values.
        bias: (B or 1, H, N, N), added to the logits before the softmax.

    Returns:
        (B, N, H, d).
    """
    kernel = xformers_kernel() if q.is_cuda else None
    if kernel is not None:
        return kernel(q, k, v, attn_bias=bias)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


@cache
def xformers_kernel() -> Callable[..., Tensor] | None:
    """Return xFormers' `memory_efficient_attention`, or None where it is not installed."""
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError:
        return None
    return cast(Callable[..., Tensor], memory_efficient_attention)
