"""Crops of a data set in order, decoded by worker processes while the caller works on those before."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from poa_plugin.data import Dataset
from poa_plugin.device import available_cores
from poa_plugin.errors import UserError

CHUNK = 16
"""Images that a worker process sends at a time: 2.4 MB at 224 pixels."""

MAX_DEATHS = 3
"""Worker processes that may be killed one after the other before they have sent anything."""


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
    done, deaths = 0, 0
    while done < len(firsts):
        loader = _loader(chunks, firsts[done:], workers)
        try:
            for chunk in loader:
                if isinstance(chunk, UserError):
                    raise chunk
                done, deaths = done + 1, 0
                yield chunk
        except (RuntimeError, ConnectionError, EOFError) as error:
            # Of a chunk that a worker had announced before it died, the memory cannot be had any more.
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            deaths += 1
            if deaths == MAX_DEATHS:
                raise UserError(
                    f"Worker processes that decode images were killed {deaths} times before they had sent "
                    f"any, which is often for want of memory: lower data.num_workers (now {workers}) with "
                    f"--data data.num_workers=1, or allow the job more."
                ) from error
            print("A process that decodes images died; another takes its place.", file=sys.stderr)
        finally:
            del loader  # an error's traceback keeps this frame, and would keep the workers waiting


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


def _loader(chunks: _Chunks, firsts: range, workers: int) -> Iterator[Tensor | UserError]:
    loader = DataLoader(
        chunks,
        batch_size=None,
        sampler=firsts,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # a loader draws a seed, which must not be torch's next number
    )
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if workers and threading.current_thread() is threading.main_thread():
        # torch's handler raises wherever the main process happens to be when a worker dies; without it
        # the death is seen when the next chunk is asked for.
        signal.signal(signal.SIGCHLD, before if callable(before) else signal.SIG_DFL)
    return iterator


def _start_worker(worker: int) -> None:
    """Leave cores and Ctrl-C to the main process, which ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
