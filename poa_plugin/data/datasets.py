"""Data sets: images by index, registered by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from poa_plugin.config import Config
from poa_plugin.errors import UserError
from poa_plugin.randomness import numpy_generator
from poa_plugin.registry import DATASETS

Split = Literal["train", "test"]
GREY_MODES = ("1", "L", "LA", "La")


class Dataset(Protocol):
    """Images by index. `labels` are class indices into `classes`, or None where there are none."""

    labels: list[int] | None
    classes: list[str]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image as uint8, (1, H, W) if it is grey and (3, H, W) otherwise."""
        ...

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        ...


def build_dataset(config: Config, split: Split) -> Dataset:
    """Build a split of the data set that `config.data` names.

    Raises:
        UserError: the data set is unknown, or has no images.
    """
    data = config.data
    return cast(Dataset, DATASETS.get(data.dataset)(data.path, split, data.image_size))


@DATASETS.register_as("image_folder")
class ImageFolder:
    """Image files under a folder, in sorted order; sub-folders are classes.

    Where the folder has `train` and `val` (or `test`) sub-folders, these are the splits; otherwise
    all images are for training (a `train` with no folder beside it is looked into). Where an image
    lies right under its split's folder, there are no labels. Links are followed, hidden files are not images.
    Grey images have one channel (16 bits are reduced to 8), all others three.

    Args:
        path: the folder.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None keeps them.

    Raises:
        UserError: there is no such folder or split, no image in it, or it cannot be read.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        if path is None:
            raise UserError("Say where the images are: data.path=/some/folder.")
        try:
            root = _split_folder(Path(path), split)
            files = sorted(_image_files(root))
        except OSError as error:
            raise UserError(f"The folder '{path}' cannot be read: {error}.") from error
        if not files:
            endings = ", ".join(IMG_EXTENSIONS)
            raise UserError(f"There are no images in the folder '{root}' (accepted: {endings}).")
        self.root, self.files, self.image_size = root, files, image_size
        folders = [file.relative_to(root).parts[:-1] for file in files]
        self.classes = sorted({parts[0] for parts in folders if parts})
        self.labels: list[int] | None = None
        if all(folders):
            index = {name: i for i, name in enumerate(self.classes)}
            self.labels = [index[parts[0]] for parts in folders]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Tensor:
        """See `Dataset.image`."""
        try:
            with Image.open(self.files[index]) as file:
                pixels = _pixels(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"The image '{self.files[index]}' cannot be read: {error}.") from error
        if self.image_size is not None and min(pixels.shape[-2:]) > self.image_size:
            pixels = TF.resize(pixels, [self.image_size], antialias=True)
        return pixels

    def name(self, index: int) -> str:
        """Return the path below the split's folder."""
        return str(self.files[index].relative_to(self.root))


@DATASETS.register_as("elpv")
class Elpv:
    """2,624 grey photographs of solar cells, 300 x 300 pixels, from the package `elpv-dataset`.

    The eight classes are four levels of defects times two kinds of cell. A fixed quarter is for
    testing. Images are held in memory, at `image_size` pixels a side.

    Args:
        path: must be None; the package carries the images.
        split: `train` or `test`.
        image_size: the side to which images are reduced; None keeps 300.

    Raises:
        UserError: the package is not installed.
    """

    LEVELS, KINDS = ("functional", "mild", "moderate", "defective"), ("mono", "poly")

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        if path is not None:
            raise UserError("The data set 'elpv' comes from its package: leave data.path out.")
        images, labels = _elpv(image_size)
        self.classes = [f"{level} {kind}" for level in self.LEVELS for kind in self.KINDS]
        order = numpy_generator("elpv split").permutation(len(images))
        n_test = len(images) // 4
        self.ids = np.sort(order[:n_test] if split == "test" else order[n_test:])
        self.images = images[torch.from_numpy(self.ids)]
        self.labels: list[int] | None = [int(label) for label in labels[self.ids]]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Tensor:
        """See `Dataset.image`."""
        return self.images[index]

    def name(self, index: int) -> str:
        """Return the number of the photograph in the package."""
        return f"elpv {self.ids[index]}"


@cache
def _elpv(image_size: int | None) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Return all images, (N, 1, S, S) uint8, and their classes."""
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise UserError(
            "The data set 'elpv' needs its package: pip install 'poa-plugin[demo]'."
        ) from error
    pixels, probability, kind = load_dataset()
    level = (probability * 3).round().astype(int)
    images = torch.from_numpy(np.asarray(pixels)).unsqueeze(1)
    if image_size is not None and image_size < images.shape[-1]:
        images = TF.resize(images, [image_size, image_size], antialias=True)
    return images, level * 2 + (np.asarray(kind) == "poly")


def _split_folder(path: Path, split: Split) -> Path:
    """Return the folder of a split; `train` may also be the name of a class, among others."""
    if not path.is_dir():
        raise UserError(f"There is no folder '{path}' with images.")
    folders = {entry.name for entry in path.iterdir() if entry.is_dir()}
    held_out = [name for name in ("val", "test") if name in folders]
    if "train" in folders and held_out:
        return path / ("train" if split == "train" else held_out[0])
    if split == "train":
        return path / "train" if folders == {"train"} else path
    raise UserError(
        f"'{path}' has no images to test with: "
        f"that takes a folder 'train' in it, and a folder 'val' or 'test'."
    )


def _image_files(folder: Path, around: frozenset[Path] = frozenset()) -> Iterator[Path]:
    real = folder.resolve()
    if real in around:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _image_files(folder / entry.name, around | {real})
            elif entry.name.lower().endswith(IMG_EXTENSIONS) and entry.is_file():
                yield folder / entry.name


def _pixels(image: Image.Image) -> Tensor:
    """Return an open image as (1 or 3, H, W) uint8."""
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        levels = np.asarray(image).clip(0, 65535) >> 8
        return torch.from_numpy(levels.astype(np.uint8)).unsqueeze(0)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return TF.pil_to_tensor(image.convert("L" if image.mode in GREY_MODES else "RGB"))
