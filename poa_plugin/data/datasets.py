"""Data sets: images by index, registered by name."""

from __future__ import annotations

import time
from typing import Literal, Protocol, cast

from torch import Tensor

from poa_plugin.config.schema import Config
from poa_plugin.data.decode import BadImageError, decode
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

PAUSES = (0.1, 1.0)
"""Seconds before an image that could not be read is tried again."""
Split = Literal["train", "test"]


class NoSplitError(UserError):
    """A data set is there, and has no such split."""


class Dataset(Protocol):
    """Images by index. `labels` are class indices into `classes`, or None where there are none."""

    labels: list[int] | None
    classes: list[str]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image as uint8, (1, H, W) if it is grey and (3, H, W) otherwise.

        Raises:
            BadImageError: it cannot be used; in training another image takes its place.
        """
        ...

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        ...


class EncodedImages:
    """Base of data sets whose images are files, on their own or in archives: `read` gives the bytes.

    Args:
        path: where the images are.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None keeps them.
    """

    labels: list[int] | None = None
    classes: list[str]
    convert_unusual = True

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        self.image_size = image_size

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """Return an image's file.

        Raises:
            BadImageError: it is not where it should be, or damaged.
            OSError: the disk does not give it now.
        """
        raise NotImplementedError

    def image(self, index: int) -> Tensor:
        """See `Dataset.image`."""
        name = self.name(index)
        content = self._read_patiently(index, name)
        pixels = decode(content, name, self.convert_unusual)
        if self.image_size is not None and min(pixels.shape[-2:]) > self.image_size:
            import torchvision.transforms.v2.functional as TF  # takes seconds

            pixels = TF.resize(pixels, [self.image_size], antialias=True)
        return pixels

    def _read_patiently(self, index: int, name: str) -> bytes:
        """Read again where a disk has a hiccup: what a batch is made of must not depend on one."""
        for pause in (*PAUSES, None):
            try:
                return self.read(index)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise BadImageError(
                    name, "corrupt", f"it cannot be read ({error.strerror})"
                ) from error
            except OSError as error:
                if pause is None:
                    raise UserError(
                        f"The image '{name}' could not be read, in {len(PAUSES) + 1} attempts: {error}. "
                        f"The last checkpoint is whole; the same command goes on."
                    ) from error
                time.sleep(pause)
        raise AssertionError


def build_dataset(config: Config, split: Split) -> Dataset:
    """Build a split of the data set that `config.data` names.

    Raises:
        UserError: the data set is unknown, or has no images.
    """
    data = config.data
    dataset = cast(Dataset, DATASETS.get(data.dataset)(data.path, split, data.image_size))
    if isinstance(dataset, EncodedImages):
        dataset.convert_unusual = data.unusual_images == "convert"
    return dataset
