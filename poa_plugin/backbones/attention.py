"""Attention: xFormers' kernels on a GPU where they are installed, and PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    return [attention(q, k, v).flatten(0, 1) for q, k, v in split_qkv(qkv, layout)]


def unpacked(x: Tensor, layout: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the parts of packed (T, ...) tokens as views, each with the sizes of its entry: (*sizes, ...)."""
    parts = x.split([math.prod(sizes) for sizes in layout])
    return [part.unflatten(0, sizes) for part, sizes in zip(parts, layout, strict=True)]


def split_qkv(qkv: Tensor, layout: Layout) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Return each layout entry's (B, N, H, d) queries, keys and values, views of packed (T, 3, H, d) ones.

    In the backward pass their gradients are copied once; by `split` and `unbind` it would be twice.
    """
    trains = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    parts = iter(_Parts.apply(qkv, layout) if trains else _parts(qkv, layout))
    return zip(parts, parts, parts, strict=True)


class _Parts(torch.autograd.Function):
    """See `split_qkv`; queries, keys and values in turn."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.layout, ctx.shape = layout, qkv.shape
        return tuple(_parts(qkv, layout))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].new_empty(ctx.shape)
        for part, of_part in zip(_parts(grad, ctx.layout), grads, strict=True):
            part.copy_(of_part)
        return grad, None


def _parts(qkv: Tensor, layout: Layout) -> list[Tensor]:
    return [part for batch in unpacked(qkv, layout) for part in batch.unbind(2)]


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
