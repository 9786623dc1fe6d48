"""Runs on disks that are full or read-only, in folders of others, and with losses that are not finite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poa_plugin.config.load import load_config
from poa_plugin.errors import UserError
from poa_plugin.ssl import POA
from poa_plugin.train import checkpoint
from poa_plugin.train.loop import build_model, train
from poa_plugin.train.optim import build_optimizer
from tests.train.conftest import Make
from tests.train.test_loop import lines, timeless, weights

MIB = 1 << 20


def test_a_full_disk(
    make: Make,
    disk: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    whole = make("train.keep_checkpoints=0", "train.checkpoint_period=1")
    train(whole)
    size = sum(file.stat().st_size for file in (tmp_path / "run/ckpt/1").iterdir())
    folder = disk(2 * size + size // 2 + 64 * 1024)
    full = make(
        "train.keep_checkpoints=0", "train.checkpoint_period=1", f"output_dir={folder / 'run'}"
    )
    with pytest.raises(UserError, match=r"checkpoint '3' cannot be written.*the disk is full") as e:
        train(full)
    assert "the one of step 2 is whole" in str(e.value)
    assert checkpoint.steps(folder / "run/ckpt") == [1, 2]
    assert checkpoint.latest(folder / "run/ckpt") == folder / "run/ckpt/2"
    assert not list((folder / "run/ckpt").glob(".*"))
    subprocess.run(["mount", "-o", f"remount,size={8 * size + MIB}", str(folder)], check=True)
    assert train(full).finished
    ours, theirs = weights(tmp_path / "run"), weights(folder / "run")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def fill(disk: Path, left: int) -> None:
    """Leave some bytes on a disk."""
    room = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - left)


@pytest.mark.parametrize("left", [0, 8192])
def test_a_disk_that_fills_up_between_checkpoints(
    disk: Callable[[int], Path], demo_words: list[str], left: int
) -> None:
    """The metrics and TensorBoard's thread meet it first; the command ends with one sentence."""
    folder = disk(64 * MIB)
    command = [sys.executable, "-m", "poa_plugin", "train", *demo_words]
    command += [f"output_dir={folder / 'run'}", "optim.epochs=2", "train.checkpoint_period=2"]
    subprocess.run(command, check=True, capture_output=True)
    before = checkpoint.latest(folder / "run/ckpt")
    fill(folder, left)
    again = [*command, "optim.epochs=3", "train.accept_changes=true"]
    ended = subprocess.run(again, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert checkpoint.latest(folder / "run/ckpt") == before


def test_a_folder_that_is_read_only(
    make: Make,
    disk: Callable[[int], Path],
) -> None:
    folder = disk(MIB)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(UserError, match="file system that is read-only"):
        train(make(f"output_dir={folder / 'run'}"))


def test_an_output_folder_that_is_a_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="a file"):
        train(make())


def test_the_folder_of_another_configuration(
    make: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    train(make("optim.epochs=1"))
    before = weights(run)
    said = r"optim.base_lr is 0.004 there and 0.1 here; train.seed is 0 there and 1 here\. Choose"
    with pytest.raises(UserError, match=said):
        train(make("optim.epochs=1", "optim.base_lr=0.1", "train.seed=1"))
    assert load_config(run / "config.yaml").optim.base_lr == 0.004
    free = ["train.log_period=1", "train.keep_checkpoints=9", "data.num_workers=1"]
    assert train(make("optim.epochs=1", *free)).finished
    assert all(torch.equal(value, weights(run)[key]) for key, value in before.items())
    assert train(make("optim.epochs=2", "train.accept_changes=true")).finished
    assert "optim.epochs is 1 there and 2 here" in capsys.readouterr().out
    assert load_config(run / "config.1.yaml").optim.epochs == 1
    assert load_config(run / "config.yaml").optim.epochs == 2


def test_a_damaged_checkpoint_is_passed_over_when_asked(
    make: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run from the earlier checkpoint ends as the unbroken one did."""
    train(make())
    whole, run = weights(tmp_path / "run"), tmp_path / "run"
    (run / "ckpt/6" / checkpoint.MODEL).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"'.*ckpt/6' is damaged.*newest whole one is '.*ckpt/4'"):
        train(make())
    assert train(make("train.damaged_checkpoint=previous")).finished
    assert "WARNING: The checkpoint" in capsys.readouterr().err
    assert all(torch.equal(value, weights(run)[key]) for key, value in whole.items())


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the loss, or one gradient, NaN at some steps."""
    honest = POA.forward_backward

    def inject(*steps: int, gradient: bool = False) -> None:
        def poisoned(self: POA, *arguments: Any, **words: Any) -> dict[str, Tensor]:
            terms = honest(self, *arguments, **words)
            if int(self.step) in steps:
                if gradient:
                    next(self.student["backbone"].parameters()).grad.fill_(float("inf"))
                else:
                    terms["cross_view_intact_local"] = torch.tensor(float("nan"))
            return terms

        monkeypatch.setattr(POA, "forward_backward", poisoned)

    return inject


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "centering"])
def test_a_step_that_is_not_finite_is_skipped(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
    gradient: bool,
    centering: str,
) -> None:
    words = (
        f"train.centering={centering}",
        "train.checkpoint_period=1",
        "train.keep_checkpoints=0",
    )
    poison(2, 3, gradient=gradient)
    config, run = make(*words), tmp_path / "run"
    assert train(config).finished
    at = {
        step: checkpoint.load_tensors(run / f"ckpt/{step}" / checkpoint.MODEL)
        for step in checkpoint.steps(run / "ckpt")
    }
    assert list(at) == [1, 2, 5, 6]
    assert all(torch.isfinite(value).all() for values in at.values() for value in values.values())
    key = "student.backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(at[2][key], at[5][key])
    records = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 3]
    said = "gradient of backbone" if gradient else "cross_view_intact_local"
    assert records[0]["not_finite"] == [said]
    assert len(records[0]["image_ids"][0]) == config.train.batch_size_per_shard
    found = lines(run)
    assert [line["skipped_steps"] for line in found] == [0, 2, 0]
    assert found[1]["loss"] is None
    assert found[1]["terms"] == {}


def test_skipping_leaves_weights_moments_and_teacher_untouched(
    make: Make,
    poison: Callable[..., None],
    tmp_path: Path,
) -> None:
    poison(3, 4, 5)
    train(make("train.checkpoint_period=3", "train.keep_checkpoints=0"))
    root = tmp_path / "run/ckpt"
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        before, after = (checkpoint.load_tensors(root / step / name) for step in ("3", "6"))
        before.pop("step", None), after.pop("step", None)
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_too_many_in_a_row_end_the_run_at_its_last_good_state(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
) -> None:
    words = ("train.max_skipped_steps=3", "train.checkpoint_period=5")
    poison(1, 2, 3)
    run = tmp_path / "run"
    said = r"not finite in 3 steps in a row .*saved as '.*ckpt/1'"
    for _ in range(2):  # the same command meets the same steps
        with pytest.raises(UserError, match=said):
            train(make(*words))
        assert checkpoint.steps(run / "ckpt") == [1]
    model = build_model(make())
    optimizer = build_optimizer(model.get_params_groups(), make())
    assert checkpoint.load(run / "ckpt/1", model, optimizer)["step"] == int(model.step) == 1
    poison()
    assert train(make(*words)).finished
    train(make(*words, f"output_dir={tmp_path / 'whole'}"))
    assert timeless(lines(tmp_path / "whole")) == timeless(lines(run))
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert not (run / "skipped_steps.jsonl").read_text()


def test_a_run_that_is_stopped_among_skipped_steps_goes_on_before_them(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
) -> None:
    poison(1, 2)
    for _ in range(2):
        assert not train(make("train.max_minutes=1e-9")).finished
        assert checkpoint.steps(tmp_path / "run/ckpt") == [1]


def test_what_is_not_finite_is_named(make: Make) -> None:
    from poa_plugin.train.skipping import not_finite

    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    assert not_finite({"a": good, "b": good}) == []
    assert not_finite({"a": good, "b": bad, "c": bad}) == ["b", "c"]
