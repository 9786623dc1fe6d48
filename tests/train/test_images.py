"""A run's folder belongs to its images, wherever they lie; and what was accepted was accepted once."""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.config.load import load_config
from poa_plugin.data import Names
from poa_plugin.errors import UserError
from poa_plugin.train.images import NAMES, RECORD, ImageRecord, check_images, record_images
from poa_plugin.train.loop import train
from tests.conftest import Make, Noise
from tests.data.image_files import good, write_folder, write_tar
from tests.train.test_loop import weights

FILES = {f"{name}/{i}.jpg": good(i) for name in "ab" for i in range(3)}


@pytest.fixture
def run(make: Make, tmp_path: Path) -> Any:
    """Return a function that trains some epochs of one step on a folder of images."""

    def start(path: Path, epochs: int, *overrides: str) -> Any:
        always = (
            "data.dataset=image_folder",
            "train.OFFICIAL_EPOCH_LENGTH=1",
            "optim.warmup_epochs=0",
        )
        return train(
            make(
                *always,
                f"data.path={path}",
                f"optim.epochs={epochs}",
                "train.max_minutes=1e-9",
                *overrides,
            )
        )

    return start


def test_the_same_images_elsewhere_go_on(run: Any, tmp_path: Path) -> None:
    """As after a requeue whose images were staged anew; the weights are those of a run that stayed."""
    first, second = (write_folder(tmp_path / name, FILES) for name in ("job1/x", "job2/x"))
    output_dir = f"output_dir={tmp_path / 'whole'}"
    for path, word in ((first, "output_dir=" + str(tmp_path / "run")), (first, output_dir)):
        assert not run(path, 2, word).finished
    shutil.rmtree(first)
    assert run(second, 2).finished
    assert load_config(tmp_path / "run/config.yaml").data.path == str(second)
    write_folder(first, FILES)
    assert run(first, 2, output_dir).finished
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_other_images_are_refused_even_in_the_same_place(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_folder(tmp_path / "x", FILES)
    run(path, 9)
    write_folder(path, {"a/1b.jpg": good(0)})
    message = (
        r"other images: 6 there and 7 here; .* number 3, 'a/2\.jpg' there and 'a/1b\.jpg' here"
    )
    with pytest.raises(UserError, match=message):
        run(path, 9)
    (path / "a/1b.jpg").unlink()
    (path / "b/2.jpg").rename(path / "b/3.jpg")
    message = r"as many, 6, but of other names .*number 6, 'b/2\.jpg' there and 'b/3\.jpg' here"
    with pytest.raises(UserError, match=message):
        run(path, 9)
    (path / "b/3.jpg").unlink()
    with pytest.raises(UserError, match=r"6 there and 5 here; .*'b/2\.jpg' there and none here"):
        run(path, 9)
    (tmp_path / "run" / NAMES).unlink()
    with pytest.raises(UserError, match=r"6 there and 5 here\. Choose another output_dir"):
        run(path, 9)
    run(path, 9, "train.accept_changes=true")
    assert "Resuming with changed values: 6 there and 5 here" in capsys.readouterr().out
    assert not run(path, 9).finished  # they are the run's images from here on
    assert json.loads((tmp_path / "run" / RECORD).read_text())["n_images"] == 5


def test_the_order_of_a_list_counts(make: Make, run: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "x", {f"{i}.jpg": good(i) for i in range(4)})
    for name, order in (("a", "0123"), ("b", "0132")):
        (tmp_path / f"x/{name}.txt").write_text("".join(f"{i}.jpg\n" for i in order))
    overrides = ("data.dataset=file_list",)
    run(tmp_path / "x/a.txt", 9, *overrides)
    with pytest.raises(
        UserError, match=r"in another order; .* number 3, '2\.jpg' there and '3\.jpg'"
    ):
        run(tmp_path / "x/b.txt", 9, *overrides)


def test_shards_are_known_by_their_names(run: Any, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tar(tmp_path / folder / "train-0.tar", {f"{i}.jpg": good(i) for i in range(4)})
    overrides = ("data.dataset=webdataset",)
    run(tmp_path / "a", 9, *overrides)
    run(tmp_path / "b/train-{0..0}.tar", 9, *overrides)
    (tmp_path / "b/train-0.tar").rename(tmp_path / "b/train-1.tar")
    with pytest.raises(
        UserError, match=r"'train-0\.tar/0\.jpg' there and 'train-1\.tar/0\.jpg' here"
    ):
        run(tmp_path / "b", 9, *overrides)


def test_a_run_without_a_record(run: Any, tmp_path: Path) -> None:
    """One from before: its path may not change until its images are written down, which the next start does."""
    path = write_folder(tmp_path / "x", FILES)
    run(path, 9)
    record = (tmp_path / "run" / RECORD).read_text()
    (tmp_path / "run" / RECORD).unlink()
    other = write_folder(tmp_path / "y", FILES)
    with pytest.raises(UserError, match=r"data\.path is .* there and .* here"):
        run(other, 9)
    run(path, 9)
    assert (tmp_path / "run" / RECORD).read_text() == record
    run(other, 9)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"n_images": 6', '{"n_images": "x", "sha256": 1}', "\xff"]
)
def test_a_damaged_record(run: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORD).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"data\.json'.* is damaged\. Remove it"):
        run(write_folder(tmp_path / "x", FILES), 9)


def test_accepting_is_for_one_command(make: Make, tmp_path: Path) -> None:
    """Neither the run's own file nor any other unprotects a run; old files may hold `true`."""
    file = tmp_path / "run/config.yaml"
    train(make("optim.epochs=1"))
    train(make("optim.epochs=2", "train.accept_changes=true", "train.damaged_checkpoint=previous"))
    saved = load_config(file).train
    assert (saved.accept_changes, saved.damaged_checkpoint) == (False, "stop")
    text = file.read_text()
    assert "accept_changes: false" in text
    file.write_text(text.replace("accept_changes: false", "accept_changes: true"))
    with pytest.raises(UserError, match=r"optim\.epochs is 2 there and 3 here.*in this command"):
        train(load_config(file, ["optim.epochs=3"]))
    assert train(load_config(file, ["optim.epochs=3", "train.accept_changes=true"])).finished
    assert "accept_changes: false" in file.read_text()


def test_many_images_are_known_at_once(make: Make, tmp_path: Path) -> None:
    """A tenth of ImageNet's."""
    names = Names.of(f"n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG" for i in range(128_000))
    began = time.process_time()
    record_images(tmp_path, names)
    assert check_images(tmp_path, make(), names, None) == []
    assert time.process_time() - began < 1
    assert (tmp_path / NAMES).stat().st_size < 800_000
    other = Names(names.text.replace(b"_127999.", b"_127998."))
    with pytest.raises(UserError, match=r"as many, 128000, .* number 128000, 'n00000098/"):
        check_images(tmp_path, make(), other, None)


def test_names_of_a_data_set_of_ones_own() -> None:
    from poa_plugin.data import image_names

    assert ImageRecord.of(image_names(Noise(3))) == ImageRecord.of(Names(b"0\x001\x002\x00"))
    assert ImageRecord.of(image_names(Noise(3))) != ImageRecord.of(image_names(Noise(4)))


def test_a_disk_that_is_full_keeps_no_half_of_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.write_bytes

    def refuse(self: Path, data: bytes) -> int:
        honest(self, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="No space left"):
        record_images(tmp_path, Names.of(["a", "b"]))
    assert not list(tmp_path.iterdir())
