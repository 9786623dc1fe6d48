"""Crops of a data set in order, decoded by worker processes while the caller works on those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from poa_plugin.data import Dataset
from poa_plugin.data.workers import Workers, in_order
from poa_plugin.device import available_cores
from poa_plugin.errors import UserError

CHUNK = 16
"""Images that a worker process sends at a time: 2.4 MB at 224 pixels."""


def decoded(
    dataset: Dataset, crop: Callable[[Tensor], Tensor], start: int = 0, workers: int = 0
) -> Iterator[Tensor]:
    """Yield what a function makes of the images from an index on, in order, as (B, 1 or 3, c, c) uint8.

    B is at most `CHUNK`; a chunk has one channel if all its images are gray. Chunks are the same whatever
    the number of workers.

    Args:
        dataset: the images.
        crop: from (1 or 3, H, W) uint8 to (1 or 3, c, c) uint8.
        start: index of the first image.
        workers: processes that decode, at most one for each core; 0 decodes in this process.

    Raises:
        UserError: an image cannot be used, or worker processes are killed again and again.
    """
    chunks = _Chunks(dataset, crop)
    firsts = range(start, len(dataset), CHUNK)
    workers = min(workers, available_cores(), len(firsts))
    advice = f"lower data.num_workers (now {workers}) with --data data.num_workers=1, or allow the job more"
    yield from in_order(chunks, firsts, Workers(workers, advice, prefetch=4))


class _Chunks(TorchDataset["Tensor | UserError"]):
    """Chunks of crops by the index of their first image."""

    def __init__(self, dataset: Dataset, crop: Callable[[Tensor], Tensor]) -> None:
        self.dataset, self.crop = dataset, crop

    def __getitem__(self, first: int) -> Tensor | UserError:
        """Return a chunk, or why there is none: an error raised in a worker comes with its traceback."""
        try:
            crops = [
                self.crop(self.dataset.image(index))
                for index in range(first, min(first + CHUNK, len(self.dataset)))
            ]
        except UserError as error:
            return UserError(str(error))  # errors with arguments of their own cannot be pickled
        if len({len(crop) for crop in crops}) > 1:
            crops = [crop.expand(3, -1, -1) for crop in crops]
        return torch.stack(crops)
