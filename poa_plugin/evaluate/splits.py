"""The two splits of a data set with labels, and their images as networks are evaluated on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from poa_plugin.config.schema import Config, EvaluationConfig
from poa_plugin.data import Dataset, build_dataset, normalise
from poa_plugin.errors import UserError
from poa_plugin.evaluate.features import check_crop, evaluation_crop


def labelled_splits(config: Config) -> tuple[Dataset, Dataset]:
    """Return the training and the test images of a configuration's data set.

    Raises:
        UserError: one of them is empty or has no labels, or their classes differ.
    """
    train, test = build_dataset(config, "train"), build_dataset(config, "test")
    name = config.data.dataset
    for split, words in ((train, "training"), (test, "test")):
        if not len(split):
            raise UserError(f"The data set '{name}' has no {words} images.")
    if train.labels is None or test.labels is None:
        raise UserError(
            f"The data set '{name}' has no labels: k-NN needs one sub-folder for each class."
        )
    if train.classes != test.classes:
        raise UserError("The classes of the training and the test images differ.")
    return train, test


class EvaluationImages:
    """The images of a split, decoded and resized once, or once for each pass if they are too many.

    Args:
        dataset: N images.
        evaluation: the sizes of images.
        room: bytes within which decoded images are kept.

    Raises:
        UserError: the crop is larger than the resized image.
    """

    def __init__(self, dataset: Dataset, evaluation: EvaluationConfig, room: int) -> None:
        check_crop(evaluation)
        self.dataset, self.evaluation = dataset, evaluation
        self.keeps = len(dataset) * 3 * evaluation.crop_size**2 <= room
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, start: int, size: int) -> Iterator[Tensor]:
        """Yield the images from an index on as (B, 3, c, c) float32 batches of a size."""
        for first in range(start, len(self), size):
            indices = range(first, min(first + size, len(self)))
            yield torch.stack([normalise(self._crop(index)) for index in indices])

    def _crop(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        crop = evaluation_crop(self.dataset.image(index), self.evaluation)
        if self.keeps:
            self._kept[index] = (
                crop.clone()
            )  # the crop alone, without the image that it is a view of
        return crop
