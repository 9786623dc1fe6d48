"""From an image to the crop that networks are evaluated on, pixel for pixel as published protocols make it."""

from __future__ import annotations

import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.data import normalize


def evaluation_image(image: Tensor, evaluation: EvaluationConfig) -> Tensor:
    """Turn (1 or 3, H, W) uint8 into the (3, c, c) float32 that networks are evaluated on."""
    return normalize(evaluation_crop(image, evaluation))


def evaluation_crop(image: Tensor, evaluation: EvaluationConfig) -> Tensor:
    """Resize the shorter side (bicubic) and take the center, both with Pillow.

    Equals `CenterCrop(crop_size)(Resize(resize_size, BICUBIC)(image))` of torchvision on a PIL image, which
    DINOv2's and timm's protocols use; torchvision's resizing of tensors differs from it by up to two levels.

    Args:
        image: (1 or 3, H, W) uint8.
        evaluation: its `resize_size`, and its `crop_size` c, which is at most that.

    Returns:
        (1 or 3, c, c) uint8.
    """
    resized = TF.resize(to_pil(image), [evaluation.resize_size], InterpolationMode.BICUBIC)
    return TF.pil_to_tensor(TF.center_crop(resized, [evaluation.crop_size, evaluation.crop_size]))


def resized_square(image: Tensor, size: int) -> Tensor:
    """Return (1 or 3, H, W) uint8 as (1 or 3, size, size) uint8, resized with Pillow (bilinear)."""
    return TF.pil_to_tensor(TF.resize(to_pil(image), [size, size], InterpolationMode.BILINEAR))


def to_pil(image: Tensor) -> Image.Image:
    """Return (1 or 3, H, W) uint8 as a gray or an RGB image of Pillow's."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())
