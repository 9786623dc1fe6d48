"""Torchvision's operations on colors, in place on levels: same results, a fraction of the time.

Levels are an image of (1 or 3, H, W) float32, contiguous, whose values are whole numbers from 0 to
255. Every function leaves whole numbers, as torchvision's do by going back to uint8: on a CPU that
conversion takes longer than all the arithmetic, and so does choosing pixel by pixel (`torch.where`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
BLUR_KERNEL = 9
BLUR_SIGMAS = 6  # beyond so many, a weight is lost in float32's rounding
WHITE = 255.0

Array = NDArray[np.float32]

_MEAN, _STD = (torch.tensor(x, device="cpu").view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))


def adjust_brightness(levels: Tensor, factor: float) -> Tensor:
    """Multiply by a factor; equals torchvision's `adjust_brightness`."""
    return levels.mul_(factor).clamp_(max=WHITE).floor_()


def adjust_contrast(levels: Tensor, factor: float) -> Tensor:
    """Blend with the mean of the image's gray; equals torchvision's `adjust_contrast`."""
    gray = _luma(levels).floor_() if len(levels) == 3 else levels
    return _blend(levels, gray.mean(), factor)


def adjust_saturation(levels: Tensor, factor: float) -> Tensor:
    """Blend with the gray of each pixel; equals torchvision's `adjust_saturation`."""
    return _blend(levels, _luma(levels).floor_(), factor) if len(levels) == 3 else levels


def adjust_hue(levels: Tensor, factor: float) -> Tensor:
    """Turn the hue by a share of the circle; equals torchvision's `adjust_hue`.

    Each number is rounded as torchvision rounds it. What differs: a pixel's largest, middle and
    smallest channel are brought back to levels before they are dealt out to red, green and blue,
    so that dealing them out is arithmetic on whole numbers.
    """
    if len(levels) == 1:
        return levels
    image = levels.numpy()
    hue, saturation, value = _hue_saturation_value(image)
    hue += np.float32(factor)
    hue -= np.floor(hue)
    hue *= 6
    sector = np.floor(hue)
    fraction = np.subtract(hue, sector, out=hue)

    smallest = 1 - saturation
    falling = np.multiply(saturation, fraction, out=saturation)
    odd = sector * np.float32(0.5)
    odd -= np.floor(odd)
    odd *= 2
    middle = np.maximum(smallest, odd)  # 1 in odd sectors, where the middle channel falls
    odd *= -2
    odd += 1
    falling *= odd
    middle += falling
    middle *= value
    smallest *= value
    for x in (value, middle, smallest):
        x *= np.float32(255.999)  # torchvision's way from [0, 1] to levels
        np.floor(x, out=x)
    _deal_out(image, sector, smallest, middle, value)
    return levels


def rgb_to_gray(levels: Tensor) -> Tensor:
    """Return one channel; three of it equal torchvision's `rgb_to_grayscale`."""
    return _luma(levels).floor_() if len(levels) == 3 else levels


def solarize(levels: Tensor) -> Tensor:
    """Invert levels from 128 on; equals torchvision's `solarize(image, 128)`."""
    return torch.minimum(levels, WHITE - levels, out=levels)  # which of the two is below 128


def gaussian_blur(levels: Tensor, sigma: float) -> Tensor:
    """Blur with a kernel of nine pixels, or the widest that the reflected border allows.

    Equals torchvision's `gaussian_blur` but for what lies half-way between two levels: about one
    pixel in 100,000 is one level off, because here columns are blurred, then rows, and not squares.
    """
    height, width = levels.shape[-2:]
    reach = min(BLUR_KERNEL // 2, min(height, width) - 1, math.ceil(BLUR_SIGMAS * sigma))
    if reach == 0:
        return levels
    weights = _gaussian(sigma, reach)
    padded = F.pad(levels, (reach,) * 4, mode="reflect").numpy()
    # All rows end to end: what runs from one row into the next falls on the border, and is cut off.
    flat = padded.reshape(-1)
    blurred = _weighted_sum(_weighted_sum(flat, weights, width + 2 * reach), weights, 1)
    flat[: len(blurred)] = blurred
    np.rint(padded[:, :height, :width], out=levels.numpy())
    return levels


def normalize(image: Tensor) -> Tensor:
    """Turn uint8, (..., 1 or 3, H, W), into (..., 3, H, W) float32 with ImageNet's statistics.

    Equals torchvision's `normalize(to_dtype(image, torch.float32, scale=True), mean, std)`.
    """
    return normalize_levels(image.float())


def normalize_levels(levels: Tensor) -> Tensor:
    """Do the same with levels, in place where they have three channels."""
    levels.mul_(1 / WHITE)
    three = levels.sub_(_MEAN) if levels.shape[-3] == 3 else levels.sub(_MEAN)
    return three.div_(_STD)


def _luma(levels: Tensor) -> Tensor:
    red, green, blue = levels.unbind()
    by_red, by_green, by_blue = GRAY_WEIGHTS
    gray = red.mul(by_red).add_(green, alpha=by_green).add_(blue, alpha=by_blue)
    return gray[None]


def _blend(levels: Tensor, other: Tensor, factor: float) -> Tensor:
    return levels.mul_(factor).add_(other, alpha=1.0 - factor).clamp_(0.0, WHITE).floor_()


def _hue_saturation_value(
    image: Array,
) -> tuple[Array, Array, Array]:
    """Turn (3, H, W) levels, overwritten, into hue in [0, 1), saturation and value, each (H, W)."""
    image *= np.float32(1 / WHITE)
    value = np.maximum(image[0], image[1])
    np.maximum(value, image[2], out=value)
    span = np.minimum(image[0], image[1])
    np.minimum(span, image[2], out=span)
    np.subtract(value, span, out=span)
    below = np.subtract(value, image, out=image)
    never_zero = np.float32(1e-30)  # lost in all but zeros, which then divide zeros
    below /= span + never_zero
    saturation = np.divide(span, value + never_zero, out=span)

    red, green, blue = below  # from 0, for the largest, to 1, for the smallest
    hue = green + 4
    hue -= red
    by_green = red + 2
    by_green -= blue
    _choose(hue, by_green, np.ceil(green))
    by_red = np.subtract(blue, green, out=by_green)
    _choose(hue, by_red, np.ceil(red))
    hue *= np.float32(1 / 6)
    hue += 1
    hue -= np.floor(hue)
    return hue, saturation, value


def _choose(first: Array, second: Array, mask: Array) -> None:
    """Keep what is first where the mask is 1, take the second where it is 0; overwrites all three."""
    first *= mask
    second *= np.subtract(1, mask, out=mask)
    first += second


def _deal_out(
    image: Array,
    sector: Array,
    smallest: Array,
    middle: Array,
    largest: Array,
) -> None:
    """Write the channels of sector 0 to 5 (6 is 0) of the color circle, from levels in order.

    Red is largest, middle, smallest, smallest, middle, largest; green and blue go round behind it.
    Far above or below the middle, a number is cut to the largest or the smallest.
    """
    far = 512
    sector *= far
    above, below = middle + 1.5 * far, middle - 1.5 * far
    red, green, blue = image
    for channel, center in ((red, 2.5), (green, 1.5), (blue, 3.5)):
        np.subtract(sector, np.float32(center * far), out=channel)
        np.abs(channel, out=channel)
    red += below
    np.subtract(above, green, out=green)
    np.subtract(above, blue, out=blue)
    np.maximum(image, smallest, out=image)
    np.minimum(image, largest, out=image)


def _gaussian(sigma: float, reach: int) -> list[float]:
    """Return the weights of the pixels 0 to `reach` steps away; those of both sides add up to 1."""
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(reach + 1)]
    return [weight / (2 * sum(weights) - 1) for weight in weights]


def _weighted_sum(flat: Array, weights: list[float], stride: int) -> Array:
    """Weigh each element and its neighbors on both sides; the ends without neighbors are left out."""
    center, end = (len(weights) - 1) * stride, len(flat) - (len(weights) - 1) * stride
    total = flat[center:end] * np.float32(weights[0])
    pair = np.empty_like(total)
    for steps, weight in enumerate(weights[1:], start=1):
        shift = steps * stride
        np.add(flat[center - shift : end - shift], flat[center + shift : end + shift], out=pair)
        pair *= np.float32(weight)
        total += pair
    return total
