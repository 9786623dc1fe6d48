"""Operations on levels: each is torchvision's on uint8, pixel for pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from poa_plugin import crops
from poa_plugin.data import augment, color

SIZES = [(224, 224), (96, 96), (32, 32), (16, 16), (17, 31), (7, 5), (1, 1)]
FACTORS = {
    "brightness": [0.0, 0.6, 0.83, 1.0, 1.17, 1.4, 2.0],
    "contrast": [0.0, 0.6, 0.83, 1.0, 1.17, 1.4, 2.0],
    "saturation": [0.0, 0.8, 0.93, 1.0, 1.07, 1.2, 2.0],
    "hue": [-0.5, -0.1, -0.037, -1e-9, 0.0, 1e-9, 0.041, 0.1, 0.5],
}


def images(channels: int, size: tuple[int, int]) -> list[Tensor]:
    """Noise over all levels, noise around one color, few levels (many ties), black, and white."""
    generator = torch.Generator().manual_seed(sum(size) + channels)
    shape = (channels, *size)
    noise = torch.randint(0, 256, shape, generator=generator)
    tint = torch.randint(0, 256, (channels, 1, 1), generator=generator)
    tinted = (tint + 20 * torch.randn(shape, generator=generator)).clamp(0, 255)
    few = torch.randint(0, 4, shape, generator=generator) * 85
    flat = [torch.zeros(shape), torch.full(shape, 255)]
    return [x.to(torch.uint8) for x in (noise, tinted, few, *flat)]


def test_normalization_is_that_of_the_image_under_another_default_device() -> None:
    crops._statistics.cache_clear()
    with torch.device("meta"):
        gray = torch.full((3, 2, 2), 128, dtype=torch.uint8, device="cpu")
        first = crops.normalize(gray)
    crops._statistics.cache_clear()
    assert torch.equal(first, crops.normalize(gray))


def every_color() -> Tensor:
    """All colors of every fifth level, and a step from each of them."""
    axis = torch.arange(0, 256, 5)
    grid = torch.cartesian_prod(axis, axis, axis).T.reshape(3, len(axis), -1)
    return torch.cat([grid, (grid + torch.tensor([1, 2, 0]).view(3, 1, 1)).clamp(max=255)], 2).to(
        torch.uint8
    )


def levels(image: Tensor) -> Tensor:
    return image.float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FACTORS)
def test_jitter_is_torchvisions(name: str, channels: int, size: tuple[int, int]) -> None:
    ours: Callable = getattr(color, f"adjust_{name}")
    theirs: Callable = getattr(TF, f"adjust_{name}")
    for image in images(channels, size):
        for factor in FACTORS[name]:
            assert torch.equal(ours(levels(image), factor), theirs(image, factor).float())


@pytest.mark.parametrize("factor", [-0.5, -0.08, 0.0, 0.03, 0.1])
def test_hue_of_every_color(factor: float) -> None:
    image = every_color()
    expected = TF.adjust_hue(image, factor).float()
    assert torch.equal(color.adjust_hue(levels(image), factor), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_solarized_and_normalized(channels: int, size: tuple[int, int]) -> None:
    for image in images(channels, size):
        gray = color.rgb_to_gray(levels(image))
        assert torch.equal(gray, TF.rgb_to_grayscale(image, 1).float())
        assert torch.equal(color.solarize(levels(image)), TF.solarize(image, 128).float())
        three = TF.to_dtype(TF.grayscale_to_rgb(image), torch.float32, scale=True)
        expected = TF.normalize(three, list(crops.IMAGENET_MEAN), list(crops.IMAGENET_STD))
        assert torch.equal(crops.normalize(image), expected)


@pytest.mark.parametrize("size", [*SIZES, (2, 5), (4, 7), (5, 8), (9, 12)])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_torchvisions(channels: int, size: tuple[int, int]) -> None:
    """At most one level apart, where a sum lies half-way; smaller images have smaller kernels."""
    kernel = min(9, 2 * min(size) - 1)
    other, pixels = 0, 0
    for image in images(channels, size):
        for sigma in (0.1, 0.17, 0.34, 0.6, 1.1, 2.0):
            expected = TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma]).float()
            apart = (color.gaussian_blur(levels(image), sigma) - expected).abs()
            assert apart.max() <= 1
            other, pixels = other + int((apart > 0).sum()), pixels + apart.numel()
    assert other <= max(1, 5e-5 * pixels)


def test_normalizing_a_batch() -> None:
    batch = torch.stack(images(3, (16, 16)))
    expected = torch.stack([crops.normalize(image) for image in batch])
    assert torch.equal(crops.normalize(batch), expected)


@pytest.mark.parametrize("size", [224, 96, 33, 16, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_crops_are_torchvisions(channels: int, size: int, packed: bool) -> None:
    """Of planes of color, and of pixels side by side, as decoders leave them."""
    image = images(channels, (150, 131))[1]
    if packed:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for box in ((0, 0, 150, 131), (10, 3, 80, 77), (149, 130, 1, 1), (5, 9, 40, 53)):
        expected = TF.resized_crop(
            image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True
        )
        actual = augment.resized_crop(image, box, size)
        assert torch.equal(actual, expected)
        assert actual.is_contiguous()
