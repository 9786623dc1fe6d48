"""Prototypes in chunks, so that no tensor of samples times all prototypes need exist."""

from __future__ import annotations

import torch
from torch import Tensor

from poa_plugin.config.schema import Config

LOGITS_AT_ONCE = 1 << 23
"""Logits in memory at a time: 32 MiB in float32."""

MULTIPLE = 256
"""The width of a chunk is a multiple of this, which matrix products like."""


def chunk_width(config: Config, mask_grid: tuple[int, int]) -> int:
    """Return how many prototypes the samples of a shard are compared with at a time.

    A head with no more prototypes than this is computed whole. The width follows from configured sizes alone,
    never from the masked patches that a shard happens to have, so that shards are computed alike wherever they
    run.

    Args:
        config: a resolved configuration.
        mask_grid: rows and columns of patches that can be masked in a global crop.
    """
    if config.train.prototype_chunk is not None:
        return config.train.prototype_chunk
    fits = LOGITS_AT_ONCE // student_rows(config, mask_grid)
    return max(MULTIPLE, fits // MULTIPLE * MULTIPLE)


def chunks(n_prototypes: int, width: int) -> list[slice]:
    """Return the slices of `width` prototypes that a head is computed in; the last may be narrower."""
    return [
        slice(start, min(start + width, n_prototypes)) for start in range(0, n_prototypes, width)
    ]


def student_rows(config: Config, mask_grid: tuple[int, int]) -> int:
    """Return the most tokens of a shard that the heads get of one student."""
    local = config.crops.local_crops_number * config.train.batch_size_per_shard
    return teacher_rows(config, mask_grid) + local


def teacher_rows(config: Config, mask_grid: tuple[int, int]) -> int:
    """Return the most tokens of a shard that the heads get of the teacher: class tokens and masked patches."""
    return 2 * config.train.batch_size_per_shard + masked_rows(config, mask_grid)


def masked_rows(config: Config, mask_grid: tuple[int, int]) -> int:
    """Return the most masked patches of a shard; 0 if no loss term reads them."""
    ibot, terms = config.ibot, config.loss.terms
    if ibot.loss_weight == 0 or not (terms.masked_patch_intact or terms.masked_patch_elastic):
        return 0
    crops = int(2 * config.train.batch_size_per_shard * ibot.mask_sample_probability)
    return crops * int(mask_grid[0] * mask_grid[1] * ibot.mask_ratio_min_max[1])


def scaled_logits(features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Return features (N, D) times prototypes (K, D) over a temperature: (N, K).

    The product is computed in the type of its factors; the result is float32, or float64 if they are.
    """
    logits = features @ prototypes.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div_(temperature)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type that autocast gives a matrix product's factors now; the tensor's without autocast."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)
