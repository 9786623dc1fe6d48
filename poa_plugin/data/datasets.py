"""Data sets: images by index, registered by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Literal, Protocol, cast

from torch import Tensor

from poa_plugin.config.schema import Config
from poa_plugin.data.decode import BadImageError, decode
from poa_plugin.data.left_out import IMAGE_ENDINGS, LeftOut
from poa_plugin.data.names import Names, printable
from poa_plugin.data.reading import FORBIDDEN, PERMANENT, read_errors, reason_of
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

PAUSES = (0.1, 1.0)
"""Seconds before an image that could not be read is tried again."""
SHOWN = 5
Split = Literal["train", "test"]


class NoSplitError(UserError):
    """A data set exists, and has no such split."""


class UnreadableImageError(UserError):
    """An image that exists and cannot be read now, which says nothing about the image itself.

    Args:
        name: what the image is called.
        reason: half a sentence.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"The image '{printable(name)}' could not be read{reason}. "
            f"The last checkpoint is intact; the same command resumes."
        )
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # from a worker process
        return type(self), (self.name, self.reason)


class Dataset(Protocol):
    """Images by index. `labels` are class indices into `classes`, or None where there are none.

    A list of a million labels is copied into every worker process, `Integers` are not.
    """

    classes: list[str]

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each image, if they have one."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image as uint8, (1, H, W) if it is gray and (3, H, W) otherwise.

        Raises:
            BadImageError: it cannot be used; training replaces it by another image.
        """
        ...

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        ...


class EncodedImages:
    """Base of data sets whose images are files, single or in archives: `read` returns the bytes.

    Args:
        path: where the images are.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None leaves them.

    Attributes:
        left_out: the files beside the images that are not used.
        notes: further information before a run, sentences without their period.
        damaged: archives of which a part is lost, sentences without their period.
    """

    labels: Sequence[int] | None = None
    classes: list[str]
    convert_unusual = True

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        self.image_size = image_size
        self.left_out = LeftOut()
        self.notes: list[str] = []
        self.damaged: list[str] = []

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        raise NotImplementedError

    def all_names(self) -> Names:
        """Return the names of all images, by which a run recognizes its images."""
        return Names.of(self.name(index) for index in range(len(self)))

    def read(self, index: int) -> bytes:
        """Return an image's file.

        Raises:
            BadImageError: it is not where it should be, or damaged.
            OSError: the disk cannot read it now.
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
        """Read again after a transient error: the contents of a batch must not depend on one."""
        for pause in (*PAUSES, None):
            try:
                return self.read(index)
            except OSError as error:
                if error.errno in PERMANENT:
                    reason = f"it cannot be read ({error.strerror})"
                    raise BadImageError(name, "corrupt", reason) from error
                if error.errno in FORBIDDEN:
                    raise UnreadableImageError(name, f": {reason_of(error)}") from error
                if pause is None:
                    attempts = f", in {len(PAUSES) + 1} attempts: {reason_of(error)}"
                    raise UnreadableImageError(name, attempts) from error
                time.sleep(pause)
        raise AssertionError


def build_dataset(config: Config, split: Split) -> Dataset:
    """Build a split of the data set that `config.data` names; print on stderr what it leaves out.

    Raises:
        UserError: the data set is unknown, cannot be read, or has no images.
    """
    data = config.data
    with read_errors("data set", data.path or data.dataset):
        dataset = cast(Dataset, DATASETS.get(data.dataset)(data.path, split, data.image_size))
    if isinstance(dataset, EncodedImages):
        dataset.convert_unusual = data.unusual_images == "convert"
        _print_notes(dataset, split, data.path)
    return dataset


def image_names(dataset: Dataset) -> Names:
    """Return the names of a data set's images, in order."""
    if isinstance(dataset, EncodedImages):
        return dataset.all_names()
    return Names.of(dataset.name(index) for index in range(len(dataset)))


_printed: set[tuple[str | None, str]] = set()


def _print_notes(dataset: EncodedImages, split: Split, path: str | None) -> None:
    """Print what is left out, and what is damaged, once in a process."""
    messages = [f"{note}." for note in dataset.notes]
    messages += [f"WARNING: {damage[0].upper()}{damage[1:]}." for damage in dataset.damaged[:SHOWN]]
    if len(dataset.damaged) > SHOWN:
        messages.append(f"WARNING: {len(dataset.damaged) - SHOWN} more archives are damaged.")
    if dataset.left_out:
        messages.append(
            f"In the {'training' if split == 'train' else split} images of '{path}' {dataset.left_out}. Images "
            f"are files that end in {', '.join(IMAGE_ENDINGS)}; a list of files takes any."
        )
    for message in messages:
        if (path, message) not in _printed:
            _printed.add((path, message))
            print(printable(message), file=sys.stderr, flush=True)
