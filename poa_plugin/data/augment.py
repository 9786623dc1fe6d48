"""Multi-crop augmentation: views of an image, with parameters drawn from a generator of the caller."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from poa_plugin.config.schema import CropsConfig
from poa_plugin.data import color
from poa_plugin.errors import UserError

BLUR_SIGMA = (0.1, 2.0)
ASPECT_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class View:
    """How one kind of crop is made: its size, share of the image, and further probabilities."""

    size: int
    scale: tuple[float, float]
    blur: float
    solarize: float = 0.0


class MultiCropAugmentation:
    """Two global and V local crops of an image (DINOv2 `data/augmentations.py`; POA section 3.3).

    Blur probabilities are 1.0, 0.1 and 0.5 for the first and second global and the local crops.
    With `crops.blur: published` they are 0.0, 0.9 and 0.5: the published code, like DINOv2's,
    applies a blur of probability p with probability 1 - p, and its results were made with that.

    Args:
        crops: sizes, scales, numbers and probabilities.

    Raises:
        UserError: `crops.color_jitter` is not four strengths that torchvision can apply.
    """

    def __init__(self, crops: CropsConfig) -> None:
        of_paper = (1.0, 0.1, 0.5)
        blur = of_paper if crops.blur == "paper" else tuple(1 - p for p in of_paper)
        large, small = crops.global_crops_size, crops.local_crops_size
        wide, narrow = tuple(crops.global_crops_scale), tuple(crops.local_crops_scale)
        self.n_local = crops.local_crops_number
        self.flips = 0.5 if crops.horizontal_flips else 0.0
        self.jitter_probability = crops.color_jitter_probability
        self.jitter_strengths = _strengths(list(crops.color_jitter))
        self.gray_probability = crops.grayscale_probability
        self.global_views = [
            View(large, (wide[0], wide[1]), blur[0]),
            View(large, (wide[0], wide[1]), blur[1], crops.solarize_probability),
        ]
        self.local_view = View(small, (narrow[0], narrow[1]), blur[2])

    def __call__(self, image: Tensor, generator: Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Augment one image.

        Args:
            image: (1 or 3, H, W) uint8; a gray image is made three equal channels at the end.
            generator: from which every parameter is drawn.

        Returns:
            Two (3, g, g) global and V (3, l, l) local crops, uint8: levels are whole numbers.
        """
        local_views = [self.local_view] * self.n_local
        return (
            [self._view(image, view, generator) for view in self.global_views],
            [self._view(image, view, generator) for view in local_views],
        )

    def _view(self, image: Tensor, view: View, generator: Generator) -> Tensor:
        box = draw_crop(image.shape[-2], image.shape[-1], view.scale, generator)
        pixels = resized_crop(image, box, view.size)
        if chance(self.flips, generator):
            pixels = pixels.flip(-1)
        levels = pixels.float()
        if chance(self.jitter_probability, generator):
            levels = jitter(levels, draw_jitter(self.jitter_strengths, generator))
        if chance(self.gray_probability, generator):
            levels = color.rgb_to_gray(levels)
        if chance(view.blur, generator):
            levels = color.gaussian_blur(levels, uniform(*BLUR_SIGMA, generator))
        if chance(view.solarize, generator):
            levels = color.solarize(levels)
        return levels.to(torch.uint8).expand(3, -1, -1)


def resized_crop(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Cut out (top, left, height, width) and resize it to a square, as uint8.

    Equals torchvision's `resized_crop`, bicubic and with antialiasing.
    """
    top, left, height, width = box
    cut = image[None, :, top : top + height, left : left + width]
    return F.interpolate(cut, (size, size), mode="bicubic", antialias=True)[0].contiguous()


def draw_crop(
    height: int, width: int, scale: tuple[float, float], generator: Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) by torchvision's `RandomResizedCrop` law."""
    log_ratio = (math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1]))
    for _ in range(10):
        area = height * width * uniform(*scale, generator)
        ratio = math.exp(uniform(*log_ratio, generator))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
            return int(top), int(left), h, w
    w, h = width, height
    if width / height < ASPECT_RATIOS[0]:
        h = round(width / ASPECT_RATIOS[0])
    elif width / height > ASPECT_RATIOS[1]:
        w = round(height * ASPECT_RATIOS[1])
    return (height - h) // 2, (width - w) // 2, h, w


def draw_jitter(strengths: list[float], generator: Generator) -> list[tuple[str, float]]:
    """Draw the factors of brightness, contrast, saturation and hue, in a random order."""
    brightness, contrast, saturation, hue = strengths
    ranges = {
        "brightness": (max(0.0, 1 - brightness), 1 + brightness),
        "contrast": (max(0.0, 1 - contrast), 1 + contrast),
        "saturation": (max(0.0, 1 - saturation), 1 + saturation),
        "hue": (-hue, hue),
    }
    drawn = [(name, uniform(*ends, generator)) for name, ends in ranges.items()]
    return [drawn[i] for i in generator.permutation(4)]


def jitter(levels: Tensor, factors: list[tuple[str, float]]) -> Tensor:
    """Apply drawn factors in their order, in place; a gray image has no saturation and no hue."""
    operations: dict[str, Callable[[Tensor, float], Tensor]] = {
        "brightness": color.adjust_brightness,
        "contrast": color.adjust_contrast,
        "saturation": color.adjust_saturation,
        "hue": color.adjust_hue,
    }
    for name, factor in factors:
        levels = operations[name](levels, factor)
    return levels


def chance(probability: float, generator: Generator) -> bool:
    """Draw whether something happens."""
    return bool(generator.random() < probability)


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a number between two ends."""
    return low + (high - low) * generator.random()


def _strengths(jitter: list[float]) -> list[float]:
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise UserError(
            f"The key 'crops.color_jitter' must be four strengths (brightness, contrast, saturation, "
            f"hue), none negative and hue at most 0.5, not {jitter}."
        )
    return jitter
