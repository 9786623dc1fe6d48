"""Crops and masks on their way to a device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from poa_plugin.device import to_device

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WHITE = 255.0


def pixels(crops: Tensor, device: torch.device) -> Tensor:
    """Bring crops to a device, without waiting for it; uint8 is normalized there.

    Args:
        crops: (N, 1 or 3, H, W) uint8, or (N, 3, H, W) normalized already.
        device: where they go.
    """
    crops = to_device(crops, device)
    return normalize(crops) if crops.dtype == torch.uint8 else crops


def normalize(image: Tensor) -> Tensor:
    """Turn uint8, (..., 1 or 3, H, W), into (..., 3, H, W) float32 with ImageNet's statistics.

    Equals torchvision's `normalize(to_dtype(image, torch.float32, scale=True), mean, std)`.
    """
    mean, std = _statistics(image.device)
    levels = image.float().mul_(1 / WHITE)
    three = levels.sub_(mean) if levels.shape[-3] == 3 else levels.sub(mean)
    return three.div_(std)


def masked_patches(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return which patches are masked, and what each weighs; waits for the device if masks lie on one.

    Args:
        masks: (n_crops, N) bool.

    Returns:
        (M,) places in the flattened (n_crops * N), and (M,) float32, one over the number of masked patches in
        the patch's image.
    """
    indices = masks.flatten().nonzero().flatten()
    per_image = masks.sum(dim=-1, keepdim=True).clamp(min=1)
    return indices, (1 / per_image).expand_as(masks)[masks]


@lru_cache(maxsize=8)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation on a device, copied there once; made outside of inference mode."""
    with torch.inference_mode(False):
        constants = (IMAGENET_MEAN, IMAGENET_STD)
        mean, std = (torch.tensor(x, device="cpu").view(3, 1, 1) for x in constants)
        return to_device(mean, device), to_device(std, device)
