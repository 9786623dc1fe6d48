"""Images a second of the multi-crop pipeline on one core, beside torchvision's own operations.

    python benchmarks/data.py [--rounds 15]

From the bytes of JPEGs of 500 x 375 pixels to a batch's normalized crops (2 x 224 and 8 x 96), three
ways that take turns, each with the same drawn parameters:

* ours: decoded by `poa_plugin.data.decode`, `poa_plugin.data.MultiCropAugmentation`;
* tensors: the same with torchvision's operations, one by one, on tensors;
* PIL: the same operations in DINOv2's order on PIL images (`data/augmentations.py` there).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import matplotlib.cbook
import numpy as np
import torch
import torchvision.transforms.functional as TF1
import torchvision.transforms.v2.functional as TF
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from poa_plugin import crops
from poa_plugin.config.schema import CropsConfig
from poa_plugin.data import MultiCropAugmentation, augment, color
from poa_plugin.data.decode import decode as decode_image

WIDTH, HEIGHT, QUALITY = 500, 375, 92
Views = tuple[list[Tensor], list[Tensor]]
OPERATIONS = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
}


def photographs() -> list[bytes]:
    """Eight cuts of matplotlib's sample photograph (a portrait before a flag), four in other colors."""
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    portrait = np.asarray(Image.open(path).convert("RGB"))
    files = []
    for i in range(8):
        top, left = 32 * i, i
        pixels = portrait[top : top + HEIGHT, left : left + WIDTH]
        pixels = pixels if i % 2 else np.roll(pixels[:, ::-1], 1, axis=2)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def torchvision_views(
    image: Any, how: MultiCropAugmentation, generator: np.random.Generator
) -> Views:
    """Make the views of a tensor or of a PIL image by torchvision's functions, with the same draws."""

    def one(view: augment.View) -> Tensor:
        width, height = image.size if isinstance(image, Image.Image) else image.shape[:-3:-1]
        box = augment.draw_crop(height, width, view.scale, generator)
        x = bicubic_crop(image, box, view.size)
        if augment.chance(how.flips, generator):
            x = TF.horizontal_flip(x)
        if augment.chance(how.jitter_probability, generator):
            for name, factor in augment.draw_jitter(how.jitter_strengths, generator):
                x = OPERATIONS[name](x, factor)
        if augment.chance(how.gray_probability, generator):
            x = TF.rgb_to_grayscale(x, 3)
        if augment.chance(view.blur, generator):
            x = TF.gaussian_blur(x, [9, 9], [augment.uniform(*augment.BLUR_SIGMA, generator)] * 2)
        if augment.chance(view.solarize, generator):
            x = TF.solarize(x, 128)
        return torchvision_normalize(x)

    return [one(view) for view in how.global_views], [
        one(how.local_view) for _ in range(how.n_local)
    ]


def bicubic_crop(image: Any, box: tuple[int, int, int, int], size: int) -> Any:
    return TF.resized_crop(image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)


def torchvision_normalize(x: Any) -> Tensor:
    if isinstance(x, Image.Image):
        x = TF1.to_tensor(x)
    else:
        x = TF.to_dtype(TF.grayscale_to_rgb(x), torch.float32, scale=True)
    return TF.normalize(x, list(crops.IMAGENET_MEAN), list(crops.IMAGENET_STD))


def decode(file: bytes) -> Tensor:
    return decode_image(file, "")


def decode_pil(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def batch(images: list[Any], open_: Callable, views: Callable, seed: int) -> list[Tensor]:
    """Return the stacked global and local crops of a batch."""
    made = [views(open_(image), np.random.default_rng((seed, i))) for i, image in enumerate(images)]
    return [torch.stack([x for view in kind for x in view]) for kind in zip(*made, strict=True)]


def compare_pipelines(rounds: int, files: list[bytes]) -> None:
    how = MultiCropAugmentation(OmegaConf.structured(CropsConfig()))
    theirs = partial(torchvision_views, how=how)
    pipelines = {
        "ours": lambda seed: [crops.normalize(x) for x in batch(files, decode, how, seed)],
        "tensors": partial(batch, files, decode, lambda x, g: theirs(x, generator=g)),
        "PIL": partial(batch, files, decode_pil, lambda x, g: theirs(x, generator=g)),
    }
    seconds = take_turns(pipelines, rounds)
    print(f"\nMulti-crop of {WIDTH} x {HEIGHT} JPEGs, 2 x 224 + 8 x 96, one core, {rounds} rounds")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["ours"], strict=True)]
        rate, ms = len(files) / median(times), 1000 * median(times) / len(files)
        print(
            f"{name:8} {rate:7.1f} images/s {ms:7.2f} ms an image   ours is {median(ratios):.2f} x"
        )
    report_difference(pipelines)


def report_difference(pipelines: dict[str, Callable]) -> None:
    """Say how far our crops are from those of torchvision's operations on tensors, in levels."""
    std = torch.tensor(crops.IMAGENET_STD).view(3, 1, 1) * 255
    apart = torch.cat(
        [
            ((ours - theirs) * std).abs().flatten()
            for ours, theirs in zip(pipelines["ours"](0), pipelines["tensors"](0), strict=True)
        ]
    )
    share = (apart > 0.5).float().mean().item()
    print(
        f"ours and tensors differ by {apart.max():.0f} levels at most, in {share:.1e} of the pixels"
    )


def compare_small(rounds: int) -> None:
    """Time the recipes of the demonstration: 64 pixel photographs held in memory."""
    small = {"global_crops_size": 32, "local_crops_size": 16, "local_crops_number": 4}
    how = MultiCropAugmentation(OmegaConf.structured(CropsConfig(**small)))
    theirs = partial(torchvision_views, how=how)
    print("\nMulti-crop of 64 x 64 tensors, 2 x 32 + 4 x 16")
    for channels, name in ((1, "gray"), (3, "RGB")):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            0, 256, (32, channels, 64, 64), dtype=torch.uint8, generator=generator
        )
        same = partial(batch, list(images), lambda x: x)
        seconds = take_turns(
            {
                "ours": partial(same, how),
                "tensors": partial(same, lambda x, g: theirs(x, generator=g)),
            },
            rounds,
        )
        ours, tensors = (1000 * median(times) / len(images) for times in seconds.values())
        print(
            f"{name:8} ours {ours:5.2f} ms, tensors {tensors:5.2f} ms an image: {tensors / ours:.2f} x"
        )


def compare_operations(rounds: int, file: bytes) -> None:
    """Print the microseconds of each operation, on a cut of the first photograph."""
    image, photograph = decode(file), decode_pil(file)
    theirs: dict[str, Callable] = {
        "brightness": lambda x: TF.adjust_brightness(x, 1.2),
        "contrast": lambda x: TF.adjust_contrast(x, 1.2),
        "saturation": lambda x: TF.adjust_saturation(x, 1.2),
        "hue": lambda x: TF.adjust_hue(x, 0.05),
        "gray": lambda x: TF.rgb_to_grayscale(x, 3),
        "blur": lambda x: TF.gaussian_blur(x, [9, 9], [1.0, 1.0]),
        "solarize": lambda x: TF.solarize(x, 128),
        "normalize": torchvision_normalize,
    }
    ours: dict[str, Callable] = {
        "brightness": lambda x: color.adjust_brightness(x, 1.2),
        "contrast": lambda x: color.adjust_contrast(x, 1.2),
        "saturation": lambda x: color.adjust_saturation(x, 1.2),
        "hue": lambda x: color.adjust_hue(x, 0.05),
        "gray": color.rgb_to_gray,
        "blur": lambda x: color.gaussian_blur(x, 1.0),
        "solarize": color.solarize,
        "normalize": lambda x: crops.normalize(x.to(torch.uint8)),
    }
    print("\nMicroseconds             ours    tensors       PIL")
    row(
        "decode",
        [microseconds(decode, [file] * rounds)] * 2 + [microseconds(decode_pil, [file] * rounds)],
    )
    for size, box in ((224, (30, 40, 300, 350)), (96, (30, 40, 150, 180))):
        our_crop = partial(augment.resized_crop, box=box, size=size)
        crop = partial(bicubic_crop, box=box, size=size)
        images = ((our_crop, image), (crop, image), (crop, photograph))
        row(f"crop, {size}", [microseconds(run, [x] * rounds) for run, x in images])
        cut, pil_cut = crop(image), crop(photograph)
        row(f"to levels, {size}", [microseconds(Tensor.float, [cut] * rounds)])
        for name, operation in theirs.items():
            times = [
                microseconds(ours[name], [cut.float() for _ in range(rounds)]),
                microseconds(operation, [cut] * rounds),
                microseconds(operation, [pil_cut] * rounds),
            ]
            row(f"{name}, {size}", times)


def row(name: str, times: list[float]) -> None:
    print(f"{name:18}" + "".join(f"{time_:11.0f}" for time_ in times))


def take_turns(pipelines: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each pipeline in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for seed in range(rounds + 1):
        for name, run in pipelines.items():
            start = time.perf_counter()
            run(seed)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def microseconds(operation: Callable, arguments: list[Any]) -> float:
    """Return the median over calls; each gets its own argument, for what works in place."""
    times = []
    for argument in arguments:
        start = time.perf_counter()
        operation(argument)
        times.append(time.perf_counter() - start)
    return 1e6 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    files = photographs()
    print(f"{len(files)} JPEGs, {sum(map(len, files)) / len(files) / 1000:.0f} kB each")
    compare_pipelines(rounds, files)
    compare_small(rounds)
    compare_operations(10 * rounds, files[0])


if __name__ == "__main__":
    main()
