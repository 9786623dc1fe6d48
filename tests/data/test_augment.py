"""Multi-crop augmentation: its laws, measured, and torchvision's operations under drawn parameters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from numpy.random import Generator
from omegaconf import OmegaConf
from torchvision.transforms import InterpolationMode

from poa_plugin.config.schema import CropsConfig
from poa_plugin.crops import normalize
from poa_plugin.data import MultiCropAugmentation, augment, color
from poa_plugin.errors import UserError

GRAY = torch.arange(64 * 80).remainder(251).to(torch.uint8).view(1, 64, 80)
COLOR = torch.stack([GRAY[0], GRAY[0].flip(0), GRAY[0].flip(1)])


def crops(**changes: object) -> CropsConfig:
    small = {"global_crops_size": 32, "local_crops_size": 16, "local_crops_number": 3}
    return OmegaConf.structured(CropsConfig(**{**small, **changes}))


EVERYTHING: dict[str, object] = {
    "color_jitter_probability": 1.0,
    "grayscale_probability": 0.5,
    "solarize_probability": 1.0,
}


def photograph(channels: int) -> torch.Tensor:
    """Smooth light and dark, and fine noise over it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (90, 110), mode="bicubic")[0] * 255
    noise = 12 * torch.randn(channels, 90, 110, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("image", [GRAY, COLOR])
def test_shapes_and_channels(image: torch.Tensor) -> None:
    global_crops, local_crops = MultiCropAugmentation(crops())(image, rng())
    assert [tuple(x.shape) for x in global_crops] == [(3, 32, 32)] * 2
    assert [tuple(x.shape) for x in local_crops] == [(3, 16, 16)] * 3
    assert {x.dtype for x in global_crops + local_crops} == {torch.uint8}


def test_a_gray_image_gives_equal_channels() -> None:
    [first, _], _ = MultiCropAugmentation(crops())(GRAY, rng())
    assert torch.equal(first, first[:1].expand(3, -1, -1))


def test_a_function_of_the_generator() -> None:
    run = MultiCropAugmentation(crops())
    first, again, other = (run(COLOR, rng(seed))[0][0] for seed in (1, 1, 2))
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
    monkeypatch.setattr(color, "gaussian_blur", lambda x, *a: sizes.append(x.shape[-1]) or x)
    run = MultiCropAugmentation(crops(blur=blur, local_crops_number=1))
    views = [*run.global_views, run.local_view]
    assert [view.blur for view in views] == pytest.approx(asked)
    for seed in range(300):
        run(GRAY, rng(seed))
    assert sizes.count(32) / 600 == pytest.approx((asked[0] + asked[1]) / 2, abs=0.05)
    assert sizes.count(16) / 300 == pytest.approx(asked[2], abs=0.08)


def test_probabilities_of_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for name in ("solarize", "rgb_to_gray", "adjust_hue"):
        monkeypatch.setattr(color, name, lambda x, *a, name=name: seen.update([name]) or x)
    run = MultiCropAugmentation(crops(local_crops_number=0))
    for seed in range(300):
        run(COLOR, rng(seed))
    assert seen["adjust_hue"] / 600 == pytest.approx(0.8, abs=0.06)
    assert seen["rgb_to_gray"] / 600 == pytest.approx(0.2, abs=0.06)
    assert seen["solarize"] / 300 == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(("flips", "share"), [(True, 0.5), (False, 0.0)])
def test_share_of_flips(flips: bool, share: float) -> None:
    """Counted on a ramp that rises to the right, and falls where it is flipped."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 64, 64)
    off = {"color_jitter_probability": 0.0, "solarize_probability": 0.0, "local_crops_number": 0}
    run = MultiCropAugmentation(crops(horizontal_flips=flips, **off))
    views = [view for seed in range(200) for view in run(ramp, rng(seed))[0]]
    flipped = [bool(view[0, 16, 0] > view[0, 16, -1]) for view in views]
    assert np.mean(flipped) == pytest.approx(share, abs=0.07)


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


def test_a_narrow_image_falls_back_to_its_center() -> None:
    assert augment.draw_crop(10, 100, (1.0, 1.0), rng()) == (0, 43, 10, 13)
    assert augment.draw_crop(100, 10, (1.0, 1.0), rng()) == (43, 0, 13, 10)
    assert augment.draw_crop(1, 1, (0.32, 1.0), rng()) == (0, 0, 1, 1)


def torchvision_view(
    image: torch.Tensor, how: MultiCropAugmentation, view: augment.View, generator: Generator
) -> torch.Tensor:
    """One view by torchvision's functions on uint8, with draws in our order."""
    box = augment.draw_crop(*image.shape[-2:], view.scale, generator)
    size = [view.size, view.size]
    x = TF.resized_crop(image, *box, size, InterpolationMode.BICUBIC, antialias=True)
    if generator.random() < how.flips:
        x = TF.horizontal_flip(x)
    if generator.random() < how.jitter_probability:
        for name, factor in augment.draw_jitter(how.jitter_strengths, generator):
            x = getattr(TF, f"adjust_{name}")(x, factor)
    if generator.random() < how.gray_probability:
        x = TF.rgb_to_grayscale(x, 3)
    if generator.random() < view.blur:
        x = TF.gaussian_blur(x, [9, 9], [0.1 + 1.9 * generator.random()] * 2)
    if generator.random() < view.solarize:
        x = TF.solarize(x, 128)
    x = TF.to_dtype(TF.grayscale_to_rgb(x), torch.float32, scale=True)
    return TF.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("image", [GRAY, COLOR, photograph(1), photograph(3)])
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"blur": "published"}])
def test_views_are_a_chain_of_torchvisions_functions(
    image: torch.Tensor, changes: dict[str, object]
) -> None:
    """Equal but where the blur rounds to the other level: one in 255 levels, less than 0.02 here."""
    run = MultiCropAugmentation(crops(**changes))
    views = [*run.global_views, *[run.local_view] * 3]
    other, different = 0, 0
    for seed in range(10):
        actual = [view for kind in run(image, rng(seed)) for view in kind]
        generator = rng(seed)
        for view, mine in zip(views, actual, strict=True):
            apart = (normalize(mine) - torchvision_view(image, run, view, generator)).abs()
            assert apart.max() < 0.02
            other += int((apart > 0).sum())
            different += apart.numel()
    assert other / different < 2e-4


def test_an_image_is_left_as_it_was() -> None:
    for image in (GRAY, COLOR):
        before = image.clone()
        MultiCropAugmentation(crops(**EVERYTHING, global_crops_scale=[1.0, 1.0]))(image, rng())
        assert torch.equal(image, before)


def test_jitter_ranges() -> None:
    generator, drawn = rng(), []
    for _ in range(500):
        drawn.append(dict(augment.draw_jitter([0.4, 0.4, 0.2, 0.1], generator)))
    for name, low, high in (("brightness", 0.6, 1.4), ("saturation", 0.8, 1.2), ("hue", -0.1, 0.1)):
        values = [factors[name] for factors in drawn]
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert len({tuple(factors) for factors in drawn}) == 24


@pytest.mark.parametrize("strengths", [[], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2, 0.6], [-1, 0, 0, 0]])
def test_strengths_that_cannot_be_applied(strengths: list[float]) -> None:
    with pytest.raises(UserError, match=r"crops\.color_jitter"):
        MultiCropAugmentation(crops(color_jitter=strengths))
