"""Evaluation's images and neighbors: crops by Pillow and by worker processes, searches in two precisions.

    python benchmarks/evaluation.py [--images 256] [--workers 0 2] [--width 384] [--vectors 100000]

JPEG files of 500 x 375 pixels are decoded and cropped (256, then 224), alone and with the features of a ViT of
four blocks. `tensors` is torchvision's resizing of tensors in the main process, which is up to two levels
off. The ways take turns in one run; times are those of the fastest round of each, in images a second. Then
neighbors are searched in double precision, and in single precision with what is not certain decided in double.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

import poa_plugin.builtin  # noqa: F401  (registers the backbones)
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.data import Dataset, ImageFolder, normalize
from poa_plugin.evaluate.neighbors import ExactSearch, FastSearch
from poa_plugin.evaluate.splits import EvaluationImages
from poa_plugin.extraction.network import extract

ROUNDS = 3


def on_tensors(dataset: Dataset, evaluation: EvaluationConfig) -> Iterator[Tensor]:
    """Yield batches whose images are resized as tensors, in this process."""
    for start in range(0, len(dataset), evaluation.batch_size):
        crops = []
        for index in range(start, min(start + evaluation.batch_size, len(dataset))):
            size = [evaluation.resize_size]
            x = TF.resize(dataset.image(index), size, InterpolationMode.BICUBIC, antialias=True)
            crops.append(normalize(TF.center_crop(x, [evaluation.crop_size] * 2)))
        yield torch.stack(crops)


def fastest(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of the fastest round of each way; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in seconds.items()}


def images(folder: Path, options: argparse.Namespace) -> None:
    """Print the images a second of every way to crops, alone and with a network's features."""
    draw = np.random.default_rng(0)
    for number in range(options.images):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8))
        (folder / "x").mkdir(exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"x/{number}.jpg")
    dataset = ImageFolder(str(folder), "train")
    evaluation = OmegaConf.structured(EvaluationConfig(batch_size=32))
    sources: dict[str, Callable[[], Iterator[Tensor]]] = {
        "tensors": lambda: on_tensors(dataset, evaluation)
    }
    for workers in options.workers:
        sources[f"Pillow, {workers} workers"] = lambda workers=workers: EvaluationImages(
            dataset, evaluation, 0, workers
        ).batches(0, evaluation.batch_size)
    sizes = {"min_width": options.width, "max_width": options.width, "min_depth": 4, "max_depth": 4}
    words = [f"student.vit.{key}={value}" for key, value in sizes.items()]
    config = default_config(["student.arch=vit", *words])
    backbone = build_backbone(config).eval()
    network = extract(backbone, backbone.space.intact)
    for what, use in (
        ("crops alone", lambda source: [None for _ in source()]),
        ("with features", lambda source: [network(x) for x in source()]),
    ):
        ways = {name: lambda s=source, u=use: u(s) for name, source in sources.items()}
        with torch.inference_mode():
            times = fastest(ways)
        for name, seconds in times.items():
            print(f"{what:>14}, {name:<20}{len(dataset) / seconds:8.1f} images/s", flush=True)


def neighbors(options: argparse.Namespace) -> None:
    """Print the queries a second of every search."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(1000, options.width, generator=generator)
    vectors = centers[torch.arange(options.vectors) % 1000]
    vectors = (vectors + torch.randn(vectors.shape, generator=generator)).half()
    queries = vectors[:: options.vectors // 256][:256]
    ks = (10, 20, 100, 200)
    searches = {
        "double": ExactSearch(vectors, ks, 1024),
        "double, in blocks": ExactSearch(vectors, ks, 1024, vectors.nbytes),
        "single first": FastSearch(vectors, ks, 1024),
    }
    ways = {
        name: lambda s=search: [s.nearest(part) for part in queries.split(s.step)]
        for name, search in searches.items()
    }
    for name, seconds in fastest(ways).items():
        print(f"{name:<20}{len(queries) / seconds:8.1f} queries/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder), options)
    neighbors(options)


if __name__ == "__main__":
    main()
