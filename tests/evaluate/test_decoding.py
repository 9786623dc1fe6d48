"""Decoding in worker processes: the same crops, errors that are sentences, workers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, dataloader

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.data import ImageFolder
from poa_plugin.errors import UserError
from poa_plugin.evaluate.crops import evaluation_crop
from poa_plugin.evaluate.decoding import decoded
from poa_plugin.evaluate.splits import EvaluationImages
from tests.conftest import Noise
from tests.data.image_files import BAD, good, write_folder

EVALUATION = OmegaConf.structured(EvaluationConfig(resize_size=16, crop_size=12, batch_size=10))
CROP = partial(evaluation_crop, evaluation=EVALUATION)


class Mixed(Noise):
    """Color images, gray ones from the 20th on."""

    def image(self, index: int) -> torch.Tensor:
        return super().image(index)[: 3 if index < 20 else 1]


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores wherever the test runs, and a loader that sees a worker's death at once."""
    monkeypatch.setattr("poa_plugin.evaluate.decoding.available_cores", lambda: 2)
    wait = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(wait, "__defaults__", (0.2,))


def test_the_number_of_workers_changes_nothing() -> None:
    images = Mixed(60)
    state = torch.get_rng_state()
    alone, beside = (
        list(EvaluationImages(images, EVALUATION, 0, workers).batches(0, 10)) for workers in (0, 2)
    )
    assert torch.equal(torch.get_rng_state(), state), "a loader drew from torch's generator"
    assert [len(x) for x in alone] == [10] * 6
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))
    for memory in (0, 10**6):
        split = EvaluationImages(images, EVALUATION, memory, workers=2)
        for _ in range(2):
            assert torch.equal(torch.cat(list(split.batches(0, 7))), torch.cat(alone))
        for start in (1, 16, 41, 60):
            rest = torch.cat([*split.batches(start, 7), torch.zeros(0, 3, 12, 12)])
            assert torch.equal(rest, torch.cat(alone)[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_used_is_a_sentence(tmp_path: Path, workers: int) -> None:
    files = {f"{i}.jpg": good(i) for i in range(20)} | {"bad.jpg": BAD["corrupt"]}
    images = ImageFolder(str(write_folder(tmp_path, files)), "train")
    with pytest.raises(UserError, match=r"^The image 'bad\.jpg' cannot be used \(corrupt\): "):
        list(decoded(images, CROP, 0, workers))
    assert not multiprocessing.active_children()


class Deadly(Noise):
    """The process that reads its 40th image is killed, unless a file says that this has happened."""

    file: Path | None = None

    def image(self, index: int) -> torch.Tensor:
        in_worker = multiprocessing.parent_process() is not None
        if index == 40 and in_worker and not (self.file and self.file.exists()):
            if self.file is not None:
                self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


def test_a_worker_that_is_killed_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Deadly(60)
    images.file = tmp_path / "killed"
    found = torch.cat(list(decoded(images, CROP, 0, 2)))
    assert torch.equal(found, torch.cat(list(decoded(Noise(60), CROP))))
    assert "A worker process of the data loader died; new ones" in capsys.readouterr().err


def test_workers_that_are_killed_again_and_again() -> None:
    with pytest.raises(UserError, match=r"killed 3 times .*data\.num_workers=1"):
        list(decoded(Deadly(60), CROP, 0, 2))


def test_no_more_workers_than_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(*args: object, num_workers: int, **rest: object) -> DataLoader:
        seen.append(num_workers)
        return DataLoader(*args, num_workers=num_workers, **rest)

    monkeypatch.setattr("poa_plugin.data.workers.DataLoader", noted)
    list(decoded(Noise(5), CROP, 0, 8))
    list(decoded(Noise(60), CROP, 0, 8))
    assert seen == [1, 2]
