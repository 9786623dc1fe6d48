"""Worker processes: which errors are a death, and what an item raises."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from poa_plugin.config.schema import Config
from poa_plugin.data import train_shards, workers
from poa_plugin.data.datasets import UnreadableImageError
from poa_plugin.data.workers import Workers, in_order
from poa_plugin.errors import UserError
from tests.conftest import Noise

Make = Callable[..., Config]
DEATHS: list[Exception] = [
    RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    RuntimeError("Pin memory thread exited unexpectedly"),
    RuntimeError("received 0 items of ancdata"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),  # of its socket
    OSError(errno.EBADF, "Bad file descriptor"),
    EOFError(),
    pickle.UnpicklingError("pickle data was truncated"),
    multiprocessing.AuthenticationError("digest received was wrong"),
]
RAISED: list[Exception] = [
    RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("Caught RuntimeError in pin memory thread for device 0.\nOriginal Traceback ..."),
    OSError("Caught OSError in DataLoader worker process 1.\nOriginal Traceback ..."),
    EOFError("Caught EOFError in DataLoader worker process 1.\nOriginal Traceback ..."),
    ZeroDivisionError(),
]
TOO_MANY = [
    RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    OSError(errno.EMFILE, "Too many open files"),
]


class Numbers(Dataset[int]):
    def __getitem__(self, number: int) -> int:
        return number


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the loaders of the next so many starts raise after two items."""
    original = workers._loader

    def patch(error: Exception, times: int, after: int = 2) -> None:
        starts = 0

        def loader(dataset: Any, numbers: range, by: Workers) -> Iterator[Any]:
            nonlocal starts
            starts += 1
            yield from (dataset[number] for number in numbers[:after])
            if starts <= times:
                raise error
            yield from original(dataset, numbers[after:], Workers(0, ""))

        monkeypatch.setattr(workers, "_loader", loader)

    return patch


@pytest.mark.parametrize("error", DEATHS, ids=repr)
def test_a_death_is_no_loss(
    fail: Callable[..., None], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(error, 3)
    assert list(in_order(Numbers(), range(4, 40, 3), Workers(2, ""))) == list(range(4, 40, 3))
    assert capsys.readouterr().err.count("new ones continue") == 3


@pytest.mark.parametrize("error", DEATHS, ids=repr)
def test_deaths_without_a_batch_between_them(fail: Callable[..., None], error: Exception) -> None:
    fail(error, 3, after=0)
    with pytest.raises(
        UserError, match=r"killed 3 times before they had made one batch.*: have fewer"
    ):
        list(in_order(Numbers(), range(9), Workers(2, "have fewer")))


@pytest.mark.parametrize("error", [*RAISED, *DEATHS], ids=repr)
def test_what_is_raised_is_no_death(fail: Callable[..., None], error: Exception) -> None:
    """Without worker processes nothing is."""
    fail(error, 1)
    with pytest.raises(type(error)) as raised:
        list(in_order(Numbers(), range(9), Workers(0 if error in DEATHS else 2, "")))
    assert raised.value is error


@pytest.mark.parametrize("error", TOO_MANY, ids=repr)
def test_too_many_open_files(fail: Callable[..., None], error: Exception) -> None:
    fail(error, 1)
    with pytest.raises(UserError, match=r"too many files are open \(ulimit -n\): have fewer"):
        list(in_order(Numbers(), range(9), Workers(2, "have fewer")))


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(loader: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("poa_plugin.data.workers.DataLoader.__iter__", refuse)
    message = "cannot be started: Resource temporarily unavailable; have fewer"
    with pytest.raises(UserError, match=message):
        list(in_order(Numbers(), range(9), Workers(2, "have fewer")))


def test_the_number_that_torch_draws_next_stays_the_same() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(in_order(Numbers(), range(3), Workers(0, "")))
    assert torch.equal(torch.rand(1), expected)


class TwoArgumentsError(UserError):
    """Cannot be unpickled."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")


class Failing(Noise):
    """A data set of the user's, whose images raise an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(9)
        self.error = error

    def image(self, index: int) -> Tensor:
        raise self.error


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnreadableImageError("a.png", ": it is busy"), r"^The image 'a\.png' could not be read"),
        (TwoArgumentsError("a.png", "is odd"), r"^a\.png is odd$"),
        (OSError(errno.EIO, "Input/output error"), r"^The image '.*' could not be read: the disk"),
    ],
    ids=["unreadable", "of a user's", "system"],
)
def test_an_unreadable_image_is_a_sentence_from_a_worker_too(
    small_config: Make, number: int, error: Exception, message: str, tmp_path: Path
) -> None:
    config = small_config(f"data.num_workers={number}")
    with pytest.raises(UserError, match=message):
        next(train_shards(config, Failing(error), (6, 6), 0, 1))


def test_an_error_in_a_worker_is_raised_and_no_death(
    small_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config("data.num_workers=1")
    with pytest.raises(RuntimeError, match=r"^Caught RuntimeError in DataLoader worker process 0"):
        next(train_shards(config, Failing(RuntimeError("a bug")), (6, 6), 0, 1))
    assert "died" not in capsys.readouterr().err


def test_in_a_slurm_job_a_worker_outlives_the_first_sigterm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = set(multiprocessing.active_children())  # of iterators that other tests have left
    items = in_order(Numbers(), range(20), Workers(1, "help"))
    assert next(items) == 0
    [worker] = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    assert list(items) == list(range(1, 20))
    assert "died" not in capsys.readouterr().err
