"""A data set of NumPy files: train.npy, (N, H, W, 3) bytes, and train_labels.npy; the same for `test`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from poa_plugin import UserError
from poa_plugin.data import Integers, NoSplitError
from poa_plugin.registry import DATASETS


@DATASETS.register_as("npy")
class NumpyImages:
    """Images in one array of equal sizes, which is mapped into memory and not read as a whole."""

    def __init__(self, path, split, image_size=None) -> None:
        file = Path(path or ".") / f"{split}.npy"
        if not file.is_file():
            raise NoSplitError(f"'{file}' is not there: the data set 'npy' is a folder of arrays.")
        self.pixels = np.load(file, mmap_mode="r")
        if self.pixels.dtype != np.uint8 or self.pixels.shape[3:] != (3,):
            raise UserError(
                f"'{file}' holds {self.pixels.dtype} of the shape {self.pixels.shape}: images are uint8, "
                f"(N, H, W, 3)."
            )
        labels = file.with_name(f"{split}_labels.npy")
        self.labels = Integers(np.load(labels).tolist()) if labels.is_file() else None
        self.classes = [str(i) for i in range(max(self.labels or [-1]) + 1)]

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index):
        """Return an image as (3, H, W) bytes."""
        return torch.from_numpy(self.pixels[index].copy()).permute(2, 0, 1)

    def name(self, index) -> str:
        """Return what an image is called in messages."""
        return f"image {index}"
