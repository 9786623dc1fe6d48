"""Bytes that follow from a configuration alone: what `check_model` refuses by, and `poa plan` counts with."""

from __future__ import annotations

from poa_plugin.config.schema import Config

MOMENTS = 8
"""Bytes of AdamW's two moments of a parameter, float32."""

BYTES_PER_PARAMETER = 12 + MOMENTS
"""Float32 weights of student and teacher, gradients, and moments."""


def crop_pixels(config: Config) -> int:
    """Return the numbers in all crops of one shard."""
    crops = config.crops
    local = crops.local_crops_number * crops.local_crops_size**2
    return 3 * config.train.batch_size_per_shard * (2 * crops.global_crops_size**2 + local)


def waiting_crops(config: Config, shards: int) -> int:
    """Return the bytes of the crops of a step, which wait in host memory as uint8.

    All are needed twice: by the teacher, for the targets of all shards, and by each shard's students.

    Args:
        config: a resolved configuration.
        shards: of the step that this process runs.
    """
    return shards * crop_pixels(config)


def kept_features(config: Config, rows: int) -> int:
    """Return the bytes that the teacher leaves of a shard: for each head, features and a number a token.

    Args:
        config: a resolved configuration.
        rows: class tokens and masked patches.
    """
    size = 4 if config.train.precision == "fp32" else 2
    heads = len(config.dino.head_n_prototypes)
    return rows * heads * (config.dino.head_bottleneck_dim * size + 4)


def least_device_bytes(config: Config, n_parameters: int) -> int:
    """Return what a step takes of a device without any activation.

    Args:
        config: a resolved configuration.
        n_parameters: of the student, backbone and heads.
    """
    train = config.train
    features = train.shards * kept_features(config, 2 * train.batch_size_per_shard)
    return BYTES_PER_PARAMETER * n_parameters + 4 * crop_pixels(config) + features
