"""Frozen features of many networks in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.data import Dataset, normalise
from poa_plugin.errors import UserError

Network = Callable[[Tensor], Mapping[str, Any]]


def evaluation_images(dataset: Dataset, evaluation: EvaluationConfig) -> Iterator[Tensor]:
    """Yield (B, 3, c, c) batches: shorter side resized (bicubic), centre crop, ImageNet statistics.

    Raises:
        UserError: the crop is larger than the resized image, or an image cannot be read.
    """
    check_crop(evaluation)
    for start in range(0, len(dataset), evaluation.batch_size):
        stop = min(start + evaluation.batch_size, len(dataset))
        yield torch.stack(
            [evaluation_image(dataset.image(index), evaluation) for index in range(start, stop)]
        )


def check_crop(evaluation: EvaluationConfig) -> None:
    """Raise a `UserError` if the crop is larger than the resized image."""
    if evaluation.crop_size > evaluation.resize_size:
        raise UserError(
            f"The key 'evaluation.crop_size' is {evaluation.crop_size}: it must not exceed "
            f"'evaluation.resize_size', which is {evaluation.resize_size}."
        )


def evaluation_image(image: Tensor, evaluation: EvaluationConfig) -> Tensor:
    """Turn (1 or 3, H, W) uint8 into the (3, c, c) float32 that networks are evaluated on."""
    return normalise(evaluation_crop(image, evaluation))


def evaluation_crop(image: Tensor, evaluation: EvaluationConfig) -> Tensor:
    """Turn (1 or 3, H, W) uint8 into the (1 or 3, c, c) uint8 that is not yet normalised."""
    size = [evaluation.resize_size]
    x = TF.resize(image, size, InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(x, [evaluation.crop_size, evaluation.crop_size])


@torch.inference_mode()
def extract_features(
    networks: Mapping[str, Network],
    dataset: Dataset,
    evaluation: EvaluationConfig,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the class-token features of every network for every image.

    Args:
        networks: called with (B, 3, c, c) images, on `device`.
        dataset: N images.
        evaluation: image sizes and batch size.
        device: where the networks are.

    Returns:
        (N, D) float32 on the CPU for each network.
    """
    features: dict[str, list[Tensor]] = {name: [] for name in networks}
    for images in evaluation_images(dataset, evaluation):
        images = images.to(device)
        for name, network in networks.items():
            features[name].append(network(images)["x_norm_clstoken"].float().cpu())
    return {name: torch.cat(parts) for name, parts in features.items()}


def raw_pixels(dataset: Dataset, size: int = 32) -> Tensor:
    """Return the images themselves as (N, 3 * size * size) float32 features in 0..1.

    Grey images are repeated in three channels, so that data sets may hold both kinds; cosines
    between grey images stay what they are.
    """
    rows = [
        TF.resize(dataset.image(index), [size, size], antialias=True).expand(3, -1, -1).flatten()
        for index in range(len(dataset))
    ]
    return torch.stack(rows).float() / 255
