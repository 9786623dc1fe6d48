"""Multi-crop augmentation: its laws, measured, and torchvision's operations under drawn parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from omegaconf import OmegaConf
from torchvision.transforms import InterpolationMode

from poa_plugin.config import CropsConfig
from poa_plugin.data import MultiCropAugmentation, augment, normalise
from poa_plugin.errors import UserError

GREY = torch.arange(64 * 80).remainder(251).to(torch.uint8).view(1, 64, 80)
COLOUR = torch.stack([GREY[0], GREY[0].flip(0), GREY[0].flip(1)])


def crops(**changes: object) -> CropsConfig:
    small = {"global_crops_size": 32, "local_crops_size": 16, "local_crops_number": 3}
    return OmegaConf.structured(CropsConfig(**{**small, **changes}))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_shapes_and_channels(image: torch.Tensor) -> None:
    global_crops, local_crops = MultiCropAugmentation(crops())(image, rng())
    assert [tuple(x.shape) for x in global_crops] == [(3, 32, 32)] * 2
    assert [tuple(x.shape) for x in local_crops] == [(3, 16, 16)] * 3
    assert {x.dtype for x in global_crops + local_crops} == {torch.float32}


def test_a_grey_image_gives_equal_channels() -> None:
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in (augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    )
    [first, _], _ = MultiCropAugmentation(crops())(GREY, rng())
    pixels = first * std + mean
    torch.testing.assert_close(pixels, pixels[:1].expand(3, -1, -1), atol=1e-6, rtol=0)


def test_a_function_of_the_generator() -> None:
    run = MultiCropAugmentation(crops())
    first, again, other = (run(COLOUR, rng(seed))[0][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("blur", "asked"), [("paper", (1.0, 0.1, 0.5)), ("published", (0.0, 0.9, 0.5))]
)
def test_blur_probabilities(
    monkeypatch: pytest.MonkeyPatch, blur: str, asked: tuple[float, ...]
) -> None:
    """Counted over many images, by the size of what is blurred: both globals, then the locals."""
    sizes = []
    monkeypatch.setattr(TF, "gaussian_blur", lambda x, *a: sizes.append(x.shape[-1]) or x)
    run = MultiCropAugmentation(crops(blur=blur, local_crops_number=1))
    views = [*run.global_views, run.local_view]
    assert [view.blur for view in views] == pytest.approx(asked)
    for seed in range(300):
        run(GREY, rng(seed))
    assert sizes.count(32) / 600 == pytest.approx((asked[0] + asked[1]) / 2, abs=0.05)
    assert sizes.count(16) / 300 == pytest.approx(asked[2], abs=0.08)


def test_probabilities_of_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    for name in ("horizontal_flip", "solarize", "rgb_to_grayscale", "adjust_hue"):
        original = getattr(TF, name)

        def count(x, *args, name=name, original=original, **more):
            seen[name] = seen.get(name, 0) + 1
            return original(x, *args, **more)

        monkeypatch.setattr(TF, name, count)
    run = MultiCropAugmentation(crops(local_crops_number=0))
    for seed in range(300):
        run(COLOUR, rng(seed))
    assert seen["horizontal_flip"] / 600 == pytest.approx(0.5, abs=0.07)
    assert seen["adjust_hue"] / 600 == pytest.approx(0.8, abs=0.06)
    assert seen["rgb_to_grayscale"] / 600 == pytest.approx(0.2, abs=0.06)
    assert seen["solarize"] / 300 == pytest.approx(0.2, abs=0.08)


def test_drawn_crops_follow_the_law() -> None:
    generator = rng()
    boxes = np.array([augment.draw_crop(250, 300, (0.32, 1.0), generator) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 250).all()
    assert (left + width <= 300).all()
    area, ratio = height * width / 75000, width / height
    assert area.min() == pytest.approx(0.32, abs=0.01)
    assert 0.95 < area.max() <= 1.0
    assert ratio.min() >= 0.74
    assert ratio.max() <= 1.35


def test_a_narrow_image_falls_back_to_its_centre() -> None:
    assert augment.draw_crop(10, 100, (1.0, 1.0), rng()) == (0, 43, 10, 13)
    assert augment.draw_crop(100, 10, (1.0, 1.0), rng()) == (43, 0, 13, 10)
    assert augment.draw_crop(1, 1, (0.32, 1.0), rng()) == (0, 0, 1, 1)


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_operations_are_torchvisions(image: torch.Tensor) -> None:
    factors = [("contrast", 1.3), ("hue", 0.07), ("brightness", 0.7), ("saturation", 1.2)]
    wanted = TF.adjust_contrast(image, 1.3)
    if len(image) == 3:
        wanted = TF.adjust_hue(wanted, 0.07)
    wanted = TF.adjust_brightness(wanted, 0.7)
    if len(image) == 3:
        wanted = TF.adjust_saturation(wanted, 1.2)
    assert torch.equal(augment.jitter(image, factors), wanted)


def test_the_whole_chain_with_everything_on() -> None:
    on = crops(
        local_crops_number=0,
        color_jitter_probability=1.0,
        grayscale_probability=1.0,
        solarize_probability=1.0,
    )
    [first, second], _ = MultiCropAugmentation(on)(COLOUR, rng(3))
    generator = rng(3)
    for blur, solarize, found in ((1.0, 0.0, first), (0.1, 1.0, second)):
        box = augment.draw_crop(64, 80, (0.32, 1.0), generator)
        x = TF.resized_crop(COLOUR, *box, [32, 32], InterpolationMode.BICUBIC, antialias=True)
        x = TF.horizontal_flip(x) if generator.random() < 0.5 else x
        generator.random()
        x = augment.jitter(x, augment.draw_jitter([0.4, 0.4, 0.2, 0.1], generator))
        generator.random()
        x = TF.rgb_to_grayscale(x, 3)
        if generator.random() < blur:
            sigma = 0.1 + 1.9 * generator.random()
            x = TF.gaussian_blur(x, [9, 9], [sigma, sigma])
        generator.random()
        x = TF.solarize(x, 128) if solarize else x
        assert torch.equal(found, normalise(x))


def test_jitter_ranges() -> None:
    generator, drawn = rng(), []
    for _ in range(500):
        drawn.append(dict(augment.draw_jitter([0.4, 0.4, 0.2, 0.1], generator)))
    for name, low, high in (("brightness", 0.6, 1.4), ("saturation", 0.8, 1.2), ("hue", -0.1, 0.1)):
        values = [factors[name] for factors in drawn]
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert len({tuple(factors) for factors in drawn}) == 24


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_blur_of_what_is_smaller_than_its_kernel(size: int) -> None:
    image = COLOUR[:, :size, : size + 3]
    kernel = min(9, 2 * size - 1)
    wanted = TF.gaussian_blur(image, [kernel, kernel], [1.5, 1.5])
    assert torch.equal(augment.blur(image, 1.5), wanted)
    assert augment.blur(image, 1.5).shape == image.shape


@pytest.mark.parametrize("strengths", [[], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2, 0.6], [-1, 0, 0, 0]])
def test_strengths_that_cannot_be_applied(strengths: list[float]) -> None:
    with pytest.raises(UserError, match=r"crops\.color_jitter"):
        MultiCropAugmentation(crops(color_jitter=strengths))
