"""The two splits of a data set with labels, and their images as networks are evaluated on them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config, EvaluationConfig
from poa_plugin.data import Dataset, build_dataset, normalize
from poa_plugin.errors import UserError
from poa_plugin.evaluate.crops import evaluation_crop, evaluation_image
from poa_plugin.evaluate.decoding import CHUNK, decoded
from poa_plugin.evaluate.features import batched, check_crop
from poa_plugin.runs.run import Run

Splits = tuple[Dataset, Dataset]
"""Training and test images."""


def labeled_splits(config: Config) -> Splits:
    """Return the training and the test images of a configuration's data set.

    Raises:
        UserError: one of them is empty or has no labels, or their classes differ.
    """
    try:
        train, test = build_dataset(config, "train"), build_dataset(config, "test")
    except UserError as error:
        if config.data.path is None:  # a path is what is missing, and evaluations take it as --data
            raise UserError(str(error).replace("data.path=", "--data ")) from error
        raise
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


def with_data(run: Run, words: Sequence[str]) -> Run:
    """Return a run with another data set or other image sizes for its evaluation.

    Args:
        run: an opened run.
        words: `data.` and `evaluation.` keys as `key=value`; a word without a key is `data.path`.

    Raises:
        UserError: a key is of another section, or unknown.
    """
    if not words:
        return run
    words = [f"data.path={word}" if _is_path(word) else word for word in words]
    for word in words:
        if not word.startswith(("data.", "evaluation.")):
            raise UserError(
                f"--data takes a path, and keys of the sections data and evaluation such as "
                f"data.dataset=imagenet, not '{word}'."
            )
    return dataclasses.replace(run, config=load_config(run.folder / "config.yaml", words))


def _is_path(word: str) -> bool:
    """Return whether a word is a path: it may hold an equals sign, as keys and values do."""
    return not re.match(r"[\w.]+=", word) or Path(word).exists()


class EvaluationImages:
    """The images of a split, decoded and resized once, or once for each pass if they are too many.

    Args:
        dataset: N images.
        evaluation: the sizes of images.
        room: bytes within which decoded images are kept.
        workers: processes that decode.

    Raises:
        UserError: the crop is larger than the resized image.
    """

    def __init__(
        self, dataset: Dataset, evaluation: EvaluationConfig, room: int, workers: int = 0
    ) -> None:
        check_crop(evaluation)
        self.dataset, self.evaluation, self.workers = dataset, evaluation, workers
        self.keeps = len(dataset) * 3 * evaluation.crop_size**2 <= room
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(
        self, start: int, size: int, device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """Yield the images from an index on as (B, 3, c, c) float32 batches of a size, on a device."""
        for crops in batched(self._crops(start), size):
            yield normalize(crops.to(device))

    def first(self) -> Tensor:
        """Return the first image, (1, 3, c, c) float32."""
        return evaluation_image(self.dataset.image(0), self.evaluation)[None]

    def _crops(self, start: int) -> Iterator[Tensor]:
        """Yield (B, 1 or 3, c, c) uint8 crops from an index on, and keep them if they are all read."""
        if self._kept:
            first, offset = divmod(start, CHUNK)
            for chunk in self._kept[first:]:
                yield chunk[offset:]
                offset = 0
            return
        crop = partial(evaluation_crop, evaluation=self.evaluation)
        chunks = decoded(self.dataset, crop, start, self.workers)
        if not self.keeps or start:
            yield from chunks
            return
        kept = []
        for chunk in chunks:
            kept.append(chunk.clone())  # workers' chunks lie in shared memory
            yield kept[-1]
        self._kept = kept
