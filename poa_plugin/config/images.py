"""The sections of the schema about images: which there are, how they are cropped, and sizes in evaluation.

Imports nothing of the package but `config.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass

from poa_plugin.config.fields import choice, number, numbers, path, switch, text

LARGEST_SIDE = 8192
"""Pixels."""


@dataclass
class CropsConfig:
    """Multi-crop augmentation: two global crops of an image, and local ones."""

    global_crops_scale: list[float] = numbers(
        [0.32, 1.0],
        "share of the image in a global crop, from and to",
        at_least=0.0001,
        at_most=1,
        length=2,
        ordered=True,
    )
    local_crops_number: int = number(8, "local crops of an image", at_least=0, at_most=256)
    local_crops_scale: list[float] = numbers(
        [0.05, 0.32],
        "share of the image in a local crop, from and to",
        at_least=0.0001,
        at_most=1,
        length=2,
        ordered=True,
    )
    global_crops_size: int = number(
        224,
        "side of a global crop",
        at_least=1,
        at_most=LARGEST_SIDE,
        unit="pixels",
        synonyms=("crop_size", "resolution", "img_size"),
    )
    local_crops_size: int = number(
        96, "side of a local crop", at_least=1, at_most=LARGEST_SIDE, unit="pixels"
    )
    horizontal_flips: bool = switch(True, "crops are flipped with probability 0.5")
    color_jitter: list[float] = numbers(
        [0.4, 0.4, 0.2, 0.1],
        "strength of the jitter of brightness, contrast, saturation and hue",
        at_least=0,
        at_most=(10, 10, 10, 0.5),
        length=4,
    )
    color_jitter_probability: float = number(0.8, "of the jitter", at_least=0, at_most=1)
    grayscale_probability: float = number(0.2, "of a crop without color", at_least=0, at_most=1)
    solarize_probability: float = number(
        0.2, "of solarization; the second global crop only", at_least=0, at_most=1
    )
    blur: str = choice(
        "paper",
        ("paper", "published"),
        "probabilities 1, 0.1, 0.5 (global 1, global 2, local), or 0, 0.9, 0.5 as in the published results",
    )


@dataclass
class DataConfig:
    """Which images: a registered data set, where it lies, and how many processes read it."""

    dataset: str = text(
        "image_folder", "the registered data set; see docs/data.md", registry="data sets"
    )
    path: str | None = path(
        None, "where the images are", synonyms=("data_dir", "data_path", "data_root", "root")
    )
    image_size: int | None = number(
        None,
        "images are reduced to this shorter side when they are read; null: not at all",
        at_least=1,
        at_most=LARGEST_SIDE,
        unit="pixels",
        synonyms=("img_size",),
    )
    num_workers: int = number(
        8,
        "processes that read; the batches do not depend on it",
        at_least=0,
        at_most=256,
        synonyms=("workers",),
    )
    unusual_images: str = choice(
        "convert",
        ("convert", "skip"),
        "CMYK, 16-bit and animated images are converted (RGB, 8 bits, first frame), or count as bad",
    )
    max_bad_ratio: float = number(
        0.001,
        "ratio of the images that may be bad and passed over before the run stops",
        at_least=0,
        at_most=1,
    )


@dataclass
class EvaluationConfig:
    """Evaluation of frozen features: image sizes as in the paper's protocol."""

    resize_size: int = number(
        256,
        "shorter side to which an image is resized",
        at_least=1,
        at_most=LARGEST_SIDE,
        unit="pixels",
    )
    crop_size: int = number(
        224,
        "side of the central crop, at most `resize_size`",
        at_least=1,
        at_most=LARGEST_SIDE,
        unit="pixels",
    )
    batch_size: int = number(
        256, "images of a batch", at_least=1, at_most=2**16, synonyms=("eval_batch_size",)
    )
