"""`poa demo`: what it cannot do it says before minutes of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from poa_plugin import step_time
from poa_plugin.children import run_side_by_side
from poa_plugin.data import elpv
from poa_plugin.demo import K, count_better
from poa_plugin.runs.entries import Entry
from tests.command_checks import fails

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs/ssl/demo_vit.yaml"


def recipe(file: Path, **data: object) -> str:
    """Write the demo's recipe with other images; return its path."""
    config = yaml.safe_load(DEMO.read_text())
    config["data"].update(data)
    config["train"] |= {"batch_size_per_shard": 4, "OFFICIAL_EPOCH_LENGTH": 2}
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_what_cannot_be_done_is_said_first(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    finished_run: Path,
) -> None:
    def message(config: str, to: str = "new", *more: str) -> str:
        return fails(capsys, "demo", config, "--to", str(tmp_path / to), *more)

    images = str(finished_run.parent / "images")
    file = tmp_path / "demo.yaml"
    unlabeled = str(finished_run.parent / "images/train/kind0")
    assert "has no images to test with" in message(
        recipe(file, dataset="image_folder", path=unlabeled)
    )
    assert "k must be between 1 and the 16" in message(
        recipe(file, dataset="image_folder", path=images)
    )
    assert "did you mean 'elpv'" in message(recipe(file, dataset="elvp"))
    assert "must be a number" in message(str(DEMO), "new", "--minutes", "0")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/networks").touch()
    assert "networks' already exists: it is a file" in message(str(DEMO), "old")
    monkeypatch.setattr(elpv, "_elpv", elpv._elpv.__wrapped__)
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    monkeypatch.delitem(sys.modules, "elpv_dataset.utils", raising=False)
    assert "pip install 'poa-plugin[demo]'" in message(str(DEMO))
    assert not (tmp_path / "new").exists()


def test_the_time_of_a_step_is_measured_in_a_process_by_itself(
    tmp_path: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = str(finished_run.parent / "images")
    config = recipe(tmp_path / "demo.yaml", dataset="image_folder", path=images)
    overrides = ["train.threads=1"]
    command = step_time.command(config, 0.0, overrides)
    assert step_time.parse(run_side_by_side({"step": command})["step"]) > 0
    only_one = [*overrides, "optim.epochs=1", "train.OFFICIAL_EPOCH_LENGTH=1"]
    assert step_time.seconds_per_step(config, only_one, 0.0) > 0
    monkeypatch.setattr(sys, "argv", ["step_time", config, "1", "data.path=/nowhere"])
    assert step_time.main() == 2
    assert capsys.readouterr().err.startswith("poa: There is no folder '/nowhere'")


def test_networks_are_compared_with_themselves_at_one_k() -> None:
    """The folder may hold rows of other ks, and of networks that were not evaluated before training."""
    entries = [
        Entry("w48_d2", top1={K: 40.0, 1: 40.0}, before={K: 50.0, 1: 20.0}),
        Entry("w64_d2", top1={K: 60.0}, before={K: 50.0}),
        Entry("w80_d2", top1={K: 60.0}),
        Entry("w96_d2", top1={1: 60.0}, before={K: 50.0}),
        Entry("raw", kind="pixels", top1={K: 10.0}),
    ]
    assert count_better(entries) == (1, 2)
