"""Data sets: images by index, registered by name."""

from __future__ import annotations

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
    all images are for training. Images right under a split's folder have no labels.

    Args:
        path: the folder.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None keeps them.

    Raises:
        UserError: there is no such folder or split, or no image in it.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        if path is None:
            raise UserError("Say where the images are: data.path=/some/folder.")
        root = _split_folder(Path(path), split)
        files = sorted(_image_files(root))
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
                image = file.convert("L" if file.mode in GREY_MODES else "RGB")
        except OSError as error:
            raise UserError(f"The image '{self.files[index]}' cannot be read: {error}.") from error
        pixels = TF.pil_to_tensor(image)
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
    if not path.is_dir():
        raise UserError(f"There is no folder '{path}' with images.")
    names = ("train",) if split == "train" else ("val", "test")
    found = [path / name for name in names if (path / name).is_dir()]
    if found:
        return found[0]
    if split == "train":
        return path
    raise UserError(
        f"'{path}' has no images to test with: there is no folder 'val' or 'test' in it."
    )


def _image_files(root: Path) -> Iterator[Path]:
    for file in root.rglob("*"):
        if file.suffix.lower() in IMG_EXTENSIONS and file.is_file():
            yield file
