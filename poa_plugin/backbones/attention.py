"""Attention: xFormers' kernels on a GPU where they are installed, and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_TOKENS = 64
"""Up to so many, half precision takes a CPU less time without PyTorch's kernel."""

Layout = tuple[tuple[int, int], ...]
"""Images of several sizes packed into one row of tokens: (images, tokens of each), in order."""


def packed_attention(qkv: Tensor, layout: Layout) -> list[Tensor]:
    """Return the attention of packed tokens, each image within itself.

    xFormers takes all images in one call, with a block-diagonal mask; PyTorch's kernel is called once for each
    size of image.

    Args:
        qkv: (T, 3, H, d) queries, keys and values.
        layout: its tokens add up to T.

    Returns:
        Consecutive parts of (T, H, d); joining them would be a needless copy.
    """
    if qkv.is_cuda and xformers_kernel() is not None:
        q, k, v = qkv.unsqueeze(0).unbind(2)
        return [attention(q, k, v, block_diagonal_mask(layout)).squeeze(0)]
    parts = _Parts.apply(qkv, layout)
    return [attention(*parts[i : i + 3]).flatten(0, 1) for i in range(0, len(parts), 3)]


class _Parts(torch.autograd.Function):
    """Queries, keys and values of each size of image, as views; their gradients are copied once, not twice."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.layout, ctx.shape = layout, qkv.shape
        return tuple(part for batch in _batches(qkv, layout) for part in batch.unbind(2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].new_empty(ctx.shape)
        slots = [slot for batch in _batches(grad, ctx.layout) for slot in batch.unbind(2)]
        for slot, part in zip(slots, grads, strict=True):
            slot.copy_(part)
        return grad, None


def _batches(qkv: Tensor, layout: Layout) -> list[Tensor]:
    """Return (B, N, 3, H, d) views of (T, 3, H, d), one for each size of image."""
    batches = qkv.split([images * tokens for images, tokens in layout])
    return [batch.unflatten(0, size) for batch, size in zip(batches, layout, strict=True)]


@lru_cache(maxsize=64)
def block_diagonal_mask(layout: Layout) -> Any:
    """Return xFormers' mask with which each image of a layout attends to itself alone."""
    from xformers.ops.fmha import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens([n for images, n in layout for _ in range(images)])


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Any = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v for each head.

    xFormers' kernel is used where it is installed and the tensors are on a GPU, unless the bias is a tensor;
    PyTorch's otherwise.

    Args:
        q, k, v: (B, N, H, d) queries, keys and values.
        bias: (B or 1, H, N, N), added to the logits before the softmax; on a GPU with xFormers also
            one of its masks.

    Returns:
        (B, N, H, d).
    """
    kernel = xformers_kernel() if q.is_cuda and not isinstance(bias, Tensor) else None
    if kernel is not None:
        return kernel(q, k, v, attn_bias=bias)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # On a CPU the kernel takes longer than its parts with a bias, and in half precision for few tokens.
    is_small = q.shape[-2] <= FEW_TOKENS and q.dtype in (torch.bfloat16, torch.float16)
    if q.is_cuda or (bias is None and not is_small):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).transpose(1, 2)


@cache
def xformers_kernel() -> Callable[..., Tensor] | None:
    """Return xFormers' `memory_efficient_attention`, or None where it is not installed."""
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError:
        return None
    return cast(Callable[..., Tensor], memory_efficient_attention)
