"""Block masks for iBOT's masked-patch term (BEiT; DINOv2 `data/masking.py`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_BLOCK, MIN_ASPECT, TRIES = 4, 0.3, 10

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def block_mask(grid: tuple[int, int], count: int, rng: np.random.Generator) -> Mask:
    """Return an (h, w) mask of rectangles with at most `count` patches set.

    Rectangles have an area between 4 patches and what remains (half the grid at most) and a
    log-uniform aspect ratio between 0.3 and 1 / 0.3, and are smaller than the grid on both sides. A
    rectangle counts the patches it adds; when ten tries add none, the mask stays below `count`.
    """
    mask = np.zeros(grid, dtype=bool)
    largest = grid[0] * grid[1] // 2
    done = 0
    while done < count:
        added = _add_block(mask, min(count - done, largest), rng)
        if added == 0:
            break
        done += added
    return mask


def _add_block(mask: Mask, most: int, rng: np.random.Generator) -> int:
    """Set one rectangle that adds between 1 and `most` patches; return how many it added."""
    height, width = mask.shape
    for _ in range(TRIES):
        area = rng.uniform(*sorted((MIN_BLOCK, most)))
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < h < height and 0 < w < width):
            continue
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        block = mask[top : top + h, left : left + w]
        added = int(block.size - block.sum())
        if 0 < added <= most:
            block[:] = True
            return added
    return 0


def shard_masks(
    n_crops: int,
    grid: tuple[int, int],
    probability: float,
    ratio_min_max: tuple[float, float],
    rng: np.random.Generator,
) -> Tensor:
    """Return the masks of one shard's global crops.

    floor(probability * n_crops) crops are masked, at random; the i-th of them draws its share of
    masked patches from the i-th of as many equal strata of `ratio_min_max`.

    Returns:
        (n_crops, h * w) bool.
    """
    n_masked = int(n_crops * probability)
    ends = np.linspace(*ratio_min_max, n_masked + 1)
    n_patches = grid[0] * grid[1]
    masks = [
        block_mask(grid, int(n_patches * rng.uniform(low, high)), rng)
        for low, high in zip(ends, ends[1:], strict=False)
    ]
    masks += [np.zeros(grid, dtype=bool)] * (n_crops - n_masked)
    order = rng.permutation(n_crops)
    return torch.from_numpy(np.stack([masks[i].ravel() for i in order]))
