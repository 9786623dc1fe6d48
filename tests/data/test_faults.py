"""Images that are passed over, worker processes that die, and `poa data check`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from poa_plugin.cli import main
from poa_plugin.config.schema import Config
from poa_plugin.data import ImageFolder, train_shards
from poa_plugin.data.faults import BadImageNote, BadImages
from poa_plugin.errors import UserError
from tests.data.image_files import BAD, UNUSUAL, good, write_folder, write_tar


def note(name: str) -> BadImageNote:
    return BadImageNote(name, "corrupt", "it is no image")


def test_bad_images_are_counted_once_and_over_resumptions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = BadImages(tmp_path, 100, 0.02)
    first.note([note("a"), note("a")])
    first.note([note("a")])
    assert capsys.readouterr().out.count("'a' is skipped (corrupt): it is no image") == 1
    with (tmp_path / "bad_images.jsonl").open("a") as file:
        file.write('{"image": "cut o')
    second = BadImages(tmp_path, 100, 0.02)
    second.note([note("b")])
    records = (tmp_path / "bad_images.jsonl").read_text().splitlines()
    assert [json.loads(record)["image"] for record in records] == ["a", "b"]
    with pytest.raises(UserError, match=r"3 of 100 .*data\.max_bad_ratio=0\.02.*'a', 'b', 'c'"):
        second.note([note("c")])


@pytest.mark.parametrize("kind", [*BAD, *UNUSUAL])
def test_training_passes_over_each_kind(
    small_config: Callable[..., Config], tmp_path: Path, kind: str
) -> None:
    """Up to the share; a batch lists the images that it is made of."""
    content = {**BAD, **UNUSUAL}[kind]
    files = {f"{i}.jpg": good(i) for i in range(9)} | {"bad.jpg": content}
    overrides = (f"data.path={write_folder(tmp_path / 'x', files)}", "data.unusual_images=skip")
    config = small_config(*overrides, "data.max_bad_ratio=0.1")
    dataset = ImageFolder(config.data.path, "train")
    dataset.convert_unusual = False
    bad_id = dataset.files.index("bad.jpg")
    (tmp_path / "run").mkdir()
    for batch in train_shards(
        config, dataset, (6, 6), 0, 5, BadImages(tmp_path / "run", len(dataset), 1.0)
    ):
        assert bad_id not in batch["image_ids"]
        assert batch["collated_global_crops"].shape == (6, 3, 48, 48)
    [record] = (tmp_path / "run/bad_images.jsonl").read_text().splitlines()
    assert json.loads(record)["kind"] == kind
    assert json.loads(record)["image"] == "bad.jpg"
    strict = small_config(*overrides, "data.max_bad_ratio=0.09")
    with pytest.raises(UserError, match="1 of 10 images cannot be used"):
        list(train_shards(strict, dataset, (6, 6), 0, 5))


def test_a_data_set_of_bad_images_alone(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    files = {f"{i}.jpg": BAD["corrupt"] for i in range(5)}
    config = small_config(f"data.path={write_folder(tmp_path, files)}", "data.max_bad_ratio=1")
    with pytest.raises(UserError, match="100 images drawn in a row"):
        next(iter(train_shards(config, ImageFolder(config.data.path, "train"), (6, 6), 0, 1)))


@pytest.fixture
def _deaths_are_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader looks every five seconds whether a worker that is silent still lives."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.mark.usefixtures("_deaths_are_noticed_soon")
def test_workers_that_are_killed_are_replaced(
    small_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batches are those of a run that nobody disturbed."""
    path = write_folder(tmp_path, {f"{i}.jpg": good(i) for i in range(8)})
    config = small_config(f"data.path={path}", "data.num_workers=2")
    dataset = ImageFolder(str(path), "train")
    alone = small_config(f"data.path={path}")
    expected = list(train_shards(alone, dataset, (6, 6), 0, 14))
    actual = []
    for step, batch in enumerate(train_shards(config, dataset, (6, 6), 0, 14)):
        actual.append(batch)
        if step in (2, 7):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                child.join()
    assert capsys.readouterr().err.count("A worker process of the data loader died") == 2
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours["image_ids"] == theirs["image_ids"]
        assert torch.equal(ours["collated_global_crops"], theirs["collated_global_crops"])


class Deadly(ImageFolder):
    """Its third image kills the process that reads it."""

    def read(self, index: int) -> bytes:
        if index == 2 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.mark.usefixtures("_deaths_are_noticed_soon")
def test_workers_that_die_again_and_again_end_the_run(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    path = write_folder(tmp_path, {f"{i}.jpg": good(i) for i in range(3)})
    config = small_config(f"data.path={path}", "data.num_workers=1")
    with pytest.raises(UserError, match=r"killed 3 times .*memory.*data\.num_workers \(now 1\)"):
        list(train_shards(config, Deadly(str(path), "train"), (6, 6), 0, 3))


def test_a_check_of_a_whole_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {f"train/x/{k}.jpg": v for k, v in {**BAD, **UNUSUAL}.items()}
    files = {f"train/y/{i}.jpg": good(i) for i in range(4)} | {"val/x/0.jpg": good(0)}
    path = write_folder(tmp_path, files | odd)
    assert main(["data", "check", str(path)]) == 1
    message = capsys.readouterr().out
    assert "train: 12 images; classes: 2, images of each: 4 to 8" in message
    for kind in BAD:
        assert f"{kind}: 1 cannot be used\n    x/{kind}." in message
    for kind in UNUSUAL:
        assert f"{kind}: 1 converted\n    x/{kind}." in message
    assert "5 of 12 images (41.67%) cannot be used; training would stop" in message
    assert "test: 1 images; classes: 1, images of each: 1" in message
    assert "height 30 to 30 pixels, median 30" in message
    for name in odd:
        (path / name).unlink()
    assert main(["data", "check", str(path), "--workers", "2"]) == 0
    assert "every image can be used" in capsys.readouterr().out


def test_a_check_does_not_pass_over_a_damaged_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.jpg": good(0)})
    assert main(["data", "check", str(tmp_path), "--dataset", "webdataset"]) == 0
    (tmp_path / "val-0.tar").write_bytes(b"damaged" * 200)
    assert main(["data", "check", str(tmp_path), "--dataset", "webdataset"]) == 2
    assert "val-0.tar' cannot be read" in capsys.readouterr().err


def test_a_check_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path), "--dataset", "web_dataset"]) == 2
    assert "did you mean 'webdataset'" in capsys.readouterr().err
