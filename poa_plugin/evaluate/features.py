"""Frozen features of many networks in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.data import Dataset, normalize
from poa_plugin.errors import UserError
from poa_plugin.evaluate.crops import evaluation_crop, evaluation_image, resized_square
from poa_plugin.evaluate.decoding import decoded

__all__ = [
    "batched",
    "check_crop",
    "evaluation_crop",
    "evaluation_image",
    "evaluation_images",
    "extract_features",
    "features_of",
    "raw_pixels",
]

Network = Callable[[Tensor], Mapping[str, Any]]


def evaluation_images(
    dataset: Dataset, evaluation: EvaluationConfig, workers: int = 0
) -> Iterator[Tensor]:
    """Yield (B, 3, c, c) batches: shorter side resized (bicubic), center crop, ImageNet statistics.

    Args:
        dataset: N images.
        evaluation: image sizes and batch size.
        workers: processes that decode; the images are the same whatever their number.

    Raises:
        UserError: the crop is larger than the resized image, or an image cannot be read.
    """
    check_crop(evaluation)
    chunks = decoded(dataset, partial(evaluation_crop, evaluation=evaluation), 0, workers)
    for crops in batched(chunks, evaluation.batch_size):
        yield normalize(crops)


def batched(chunks: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield (size, 3, c, c) batches of (B, 1 or 3, c, c) chunks; the last may be smaller."""
    waiting, n_waiting = [], 0
    for chunk in chunks:
        waiting.append(chunk.expand(-1, 3, -1, -1))
        n_waiting += len(chunk)
        while n_waiting >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting, n_waiting = [joined[size:]], n_waiting - size
    if n_waiting:
        yield torch.cat(waiting)


def check_crop(evaluation: EvaluationConfig) -> None:
    """Raise a `UserError` if the crop is larger than the resized image."""
    if evaluation.crop_size > evaluation.resize_size:
        raise UserError(
            f"The key 'evaluation.crop_size' is {evaluation.crop_size}: it must not exceed "
            f"'evaluation.resize_size', which is {evaluation.resize_size}."
        )


@torch.inference_mode()
def extract_features(
    networks: Mapping[str, Network],
    dataset: Dataset,
    evaluation: EvaluationConfig,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> dict[str, Tensor]:
    """Return the class-token features of every network for every image.

    Args:
        networks: called with (B, 3, c, c) images, on `device`.
        dataset: N images.
        evaluation: image sizes and batch size.
        device: where the networks are.
        workers: processes that decode images.

    Returns:
        (N, D) float32 on the CPU for each network.
    """
    return features_of(networks, evaluation_images(dataset, evaluation, workers), device)


@torch.inference_mode()
def features_of(
    networks: Mapping[str, Network], batches: Iterable[Tensor], device: torch.device | str
) -> dict[str, Tensor]:
    """Return the class-token features of every network, (N, D) float32 on the CPU, for batches of images."""
    features: dict[str, list[Tensor]] = {name: [] for name in networks}
    for images in batches:
        images = images.to(device)
        for name, network in networks.items():
            features[name].append(network(images)["x_norm_clstoken"].float().cpu())
    return {name: torch.cat(features.pop(name)) for name in networks}


def raw_pixels(dataset: Dataset, size: int = 32, workers: int = 0) -> Tensor:
    """Return the images themselves as (N, 3 * size * size) float32 features in 0..1.

    Gray images are repeated in three channels, so that data sets may hold both kinds; cosines
    between gray images stay what they are.
    """
    chunks = decoded(dataset, partial(resized_square, size=size), 0, workers)
    rows = [chunk.expand(-1, 3, -1, -1).flatten(1).float() / 255 for chunk in chunks]
    return torch.cat(rows)
