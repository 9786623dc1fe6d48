"""Worker processes that make batches: restarted when one dies, which is distinguished from an error in one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from poa_plugin.data.reading import reason_of
from poa_plugin.device import keep_freed_memory
from poa_plugin.errors import UserError

T = TypeVar("T")

MAX_DEATHS = 3
BROKEN_CONNECTION = (OSError, EOFError, pickle.UnpicklingError, multiprocessing.ProcessError)
"""What torch's loader raises where a worker dies while it hands over a batch."""
DEATH_MESSAGES = (
    "exited unexpectedly",  # of a worker, and of the thread that pins memory, in which a connection broke
    "is killed by signal",
    "items of ancdata",  # of Python, where a worker died between the two halves of a message
)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


SECONDS_AFTER_SIGTERM = 120
"""For which a worker of a SLURM job goes on."""


@dataclass(frozen=True)
class Workers:
    """The processes that make items.

    Attributes:
        number: of processes; 0 makes the items in this one.
        advice: what to do about processes that are killed or cannot be started, the end of a sentence.
        prefetch: items that each makes ahead.
        pin_memory: whether items are put in pinned memory, from which copies to a GPU are fastest.
    """

    number: int
    advice: str
    prefetch: int = 2
    pin_memory: bool = False


def in_order(dataset: Dataset[T | UserError], numbers: range, workers: Workers) -> Iterator[T]:
    """Yield numbered items; when a worker process dies, new ones continue with the next item.

    Args:
        dataset: whose items are functions of their numbers. An item that is a `UserError` is raised.
        numbers: of the items.
        workers: the processes that make them.

    Raises:
        UserError: workers die again and again, or cannot be started.
    """
    done, deaths = 0, 0
    while done < len(numbers):
        loader = _loader(dataset, numbers[done:], workers)
        try:
            for item in loader:
                if isinstance(item, UserError):
                    raise item
                done, deaths = done + 1, 0
                yield item
        except (RuntimeError, *BROKEN_CONNECTION) as error:
            if not (workers.number and is_death(error)):
                raise
            if _is_too_many_files(error):
                raise UserError(
                    f"Worker processes cannot hand over images, as too many files are open (ulimit -n): "
                    f"{workers.advice}."
                ) from error
            deaths += 1
            if deaths == MAX_DEATHS:
                raise UserError(
                    f"Worker processes of the data loader were killed {deaths} times before they had "
                    f"made one batch, which is often due to a lack of memory: {workers.advice}."
                ) from error
            print("\nA worker process of the data loader died; new ones continue.", file=sys.stderr)
        finally:
            # An error's traceback keeps this frame; its workers must not wait for that to be collected.
            del loader


def is_death(error: Exception) -> bool:
    """Tell whether an error of a loader with workers is the death of one, and not an exception that one raised.

    What is raised in a worker, or by the thread that pins memory, comes as "Caught ... in ...".
    """
    text = str(error)
    if text.startswith("Caught "):
        return False
    if isinstance(error, BROKEN_CONNECTION):
        return True
    return any(phrase in text for phrase in DEATH_MESSAGES) or _is_too_many_files(error)


def _is_too_many_files(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in TOO_MANY_FILES
    return str(error).startswith("Too many open files")  # of torch, in place of the system's error


def _loader(
    dataset: Dataset[T | UserError], numbers: range, workers: Workers
) -> Iterator[T | UserError]:
    """Return an iterator over numbered items."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=workers.number,
        prefetch_factor=workers.prefetch if workers.number else None,
        worker_init_fn=_start_worker if workers.number else None,
        pin_memory=workers.pin_memory,
        generator=torch.Generator(),  # a loader draws a seed, which must not be torch's next number
    )
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        iterator = iter(loader)
    except OSError as error:
        raise UserError(
            f"The worker processes of the data loader cannot be started: {reason_of(error)}; "
            f"{workers.advice}."
        ) from error
    if main and workers.number:
        # torch's handler raises where a step happens to be when a worker dies, such as half-way
        # through an update; without it the death is noticed when the next batch is read.
        signal.signal(signal.SIGCHLD, before if callable(before) else signal.SIG_DFL)
    return iterator


def _start_worker(worker: int) -> None:
    """Leave cores, memory and signals to the main process: it may save on Ctrl-C, and then ends its workers."""
    torch.set_num_threads(1)
    keep_freed_memory(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    in_job = "SLURM_JOB_ID" in os.environ
    signal.signal(signal.SIGTERM, _live_on_for_a_while if in_job else signal.SIG_DFL)


def _live_on_for_a_while(number: int, frame: FrameType | None) -> None:
    """Survive a first SIGTERM: SLURM sends it to all processes, and the main one needs images for a step."""
    signal.signal(number, signal.SIG_DFL)
    signal.alarm(SECONDS_AFTER_SIGTERM)
