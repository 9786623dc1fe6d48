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
    for split, purpose in ((train, "training"), (test, "test")):
        if not len(split):
            raise UserError(f"The data set '{name}' has no {purpose} images.")
    if train.labels is None or test.labels is None:
        raise UserError(
            f"The data set '{name}' has no labels: k-NN needs one sub-folder for each class."
        )
    if train.classes != test.classes:
        raise UserError("The classes of the training and the test images differ.")
    return train, test


def with_data(run: Run, overrides: Sequence[str]) -> Run:
    """Return a run with another data set or other image sizes for its evaluation.

    Args:
        run: an opened run.
        overrides: `data.` and `evaluation.` keys as `key=value`; one without a key is `data.path`.

    Raises:
        UserError: a key is of another section, or unknown.
    """
    if not overrides:
        return run
    overrides = [f"data.path={text}" if _is_path(text) else text for text in overrides]
    for text in overrides:
        if not text.startswith(("data.", "evaluation.")):
            raise UserError(
                f"--data takes a path, and keys of the sections data and evaluation such as "
                f"data.dataset=imagenet, not '{text}'."
            )
    return dataclasses.replace(run, config=load_config(run.folder / "config.yaml", overrides))


def _is_path(text: str) -> bool:
    """Return whether an override is a path: it may hold an equals sign, as keys and values do."""
    return not re.match(r"[\w.]+=", text) or Path(text).exists()


class EvaluationImages:
    """The images of a split, decoded and resized once, or once for each pass if they are too many.

    Args:
        dataset: N images.
        evaluation: the sizes of images.
        memory: bytes within which decoded images are kept.
        workers: processes that decode.

    Raises:
        UserError: the crop is larger than the resized image.
    """

    def __init__(
        self, dataset: Dataset, evaluation: EvaluationConfig, memory: int, workers: int = 0
    ) -> None:
        if evaluation.crop_size > evaluation.resize_size:
            raise UserError(
                f"The key 'evaluation.crop_size' is {evaluation.crop_size}: it must not exceed "
                f"'evaluation.resize_size', which is {evaluation.resize_size}."
            )
        self.dataset, self.evaluation, self.workers = dataset, evaluation, workers
        self.keeps = len(dataset) * 3 * evaluation.crop_size**2 <= memory
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(
        self, start: int, size: int, device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """Yield the images from an index on as (B, 3, c, c) float32 batches of a size, on a device."""
        for crops in _batched(self._crops(start), size):
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


def _batched(chunks: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield (size, 3, c, c) batches of (B, 1 or 3, c, c) chunks; the last may be smaller."""
    waiting, n_waiting = [], 0
    for chunk in chunks:
        waiting.append(chunk.expand(-1, 3, -1, -1))
        n_waiting += len(chunk)
        while n_waiting >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting, n_waiting = [joined[size:]], n_waiting - size
    if n_waiting:
        yield torch.cat(waiting)
