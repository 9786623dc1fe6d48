"""Photographs of solar cells, from a package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poa_plugin.data.datasets import Split
from poa_plugin.data.names import Integers
from poa_plugin.errors import UserError
from poa_plugin.randomness import numpy_generator
from poa_plugin.registry import DATASETS


@DATASETS.register_as("elpv")
class Elpv:
    """2,624 gray photographs of solar cells, 300 x 300 pixels, from the package `elpv-dataset`.

    The eight classes are four levels of defects times two kinds of cell. A fixed quarter is for
    testing. Images are stored in memory, at `image_size` pixels a side.

    Args:
        path: must be None; the package carries the images.
        split: `train` or `test`.
        image_size: the side to which images are reduced; None leaves 300.

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
        self.labels: Sequence[int] | None = Integers(labels[self.ids])

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
        import torchvision.transforms.v2.functional as TF  # takes seconds

        images = TF.resize(images, [image_size, image_size], antialias=True)
    return images, level * 2 + (np.asarray(kind) == "poly")
