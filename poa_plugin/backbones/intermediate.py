"""What `get_intermediate_layers` of all backbones returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Layer(NamedTuple):
    """The output of a block or a stage.

    Attributes:
        map: (B, h, w, D), the patches.
        cls_token: (B, D); the mean over the map where there is no class token.
    """

    map: Tensor
    cls_token: Tensor


def layer_of(x: Tensor) -> Layer:
    """Return the layer of a (B, h, w, D) map without a class token."""
    return Layer(x, x.mean((1, 2)))


def layer_indices(n: int | Sequence[int], count: int, what: str) -> list[int]:
    """Return the indices of the last `n` layers, or the indices in `n`.

    Args:
        n: how many, or which.
        count: how many there are.
        what: they are, such as `blocks`.

    Raises:
        ValueError: there are no such layers.
    """
    indices = list(range(count - n, count)) if isinstance(n, int) else list(n)
    if any(not 0 <= i < count for i in indices):
        raise ValueError(f"A network of {count} {what} has no {what} {indices}.")
    return indices


def shape_layers(
    layers: Sequence[Layer], reshape: bool, return_class_token: bool
) -> tuple[Any, ...]:
    """Return (B, N, D) tokens, or (B, D, h, w) maps if `reshape`; each with its class token if asked for."""
    shaped = [x.permute(0, 3, 1, 2).contiguous() if reshape else x.flatten(1, 2) for x, _ in layers]
    if return_class_token:
        return tuple(zip(shaped, [layer.cls_token for layer in layers], strict=True))
    return tuple(shaped)
