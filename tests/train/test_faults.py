"""Runs on disks that are full or read-only, in folders of others, and among other processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.config.load import load_config
from poa_plugin.errors import UserError
from poa_plugin.ranks import launched
from poa_plugin.registry import DATASETS
from poa_plugin.train import checkpoint, lock
from poa_plugin.train.folder import claim_folder
from poa_plugin.train.lock import hold
from poa_plugin.train.lock_file import NAME
from poa_plugin.train.loop import train
from poa_plugin.train.metrics import Display
from tests.conftest import Blobs, Make
from tests.train.test_loop import weights

MIB = 1 << 20


def test_a_full_disk(
    make: Make,
    disk: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    config = make("train.keep_checkpoints=0", "train.checkpoint_period=1")
    train(config)
    size = sum(file.stat().st_size for file in (tmp_path / "run/ckpt/1").iterdir())
    folder = disk(2 * size + size // 2 + 64 * 1024)
    full = make(
        "train.keep_checkpoints=0", "train.checkpoint_period=1", f"output_dir={folder / 'run'}"
    )
    with pytest.raises(UserError, match=r"checkpoint '3' cannot be written.*the disk is full") as e:
        train(full)
    assert "the one of step 2 is intact" in str(e.value)
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
    disk: Callable[[int], Path], finished_run: Path, left: int
) -> None:
    """The metrics and TensorBoard's thread meet it first; the command ends with one sentence."""
    folder = disk(64 * MIB)
    run = shutil.copytree(finished_run, folder / "run")
    before = checkpoint.latest(run / "ckpt")
    fill(folder, left)
    command = [sys.executable, "-m", "poa_plugin", "train", str(run / "config.yaml")]
    command += [f"output_dir={run}", "optim.epochs=3", "train.accept_changes=true"]
    command += ["train.checkpoint_period=2", "train.log_period=1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
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
    message = (
        r"optim.base_lr is 0.004 there and 0.1 here; train.seed is 0 there and 1 here\. Choose"
    )
    with pytest.raises(UserError, match=message):
        train(make("optim.epochs=1", "optim.base_lr=0.1", "train.seed=1"))
    assert load_config(run / "config.yaml").optim.base_lr == 0.004
    free = ["train.log_period=1", "train.keep_checkpoints=9", "data.num_workers=1"]
    assert train(make("optim.epochs=1", *free)).finished
    after = weights(run)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert train(make("optim.epochs=2", "train.accept_changes=true")).finished
    assert "optim.epochs is 1 there and 2 here" in capsys.readouterr().out
    assert load_config(run / "config.1.yaml").optim.epochs == 1
    assert load_config(run / "config.yaml").optim.epochs == 2


def test_no_former_configuration_is_written_over(make: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for seed in (0, 1, 2):
        claim_folder(run, make(f"train.seed={seed}"), ["changed"])
    (run / "config.1.yaml").unlink()
    (run / "config.mine.yaml").touch()
    claim_folder(run, make("train.seed=3"), ["changed"])
    seeds = {n: load_config(run / f"config.{n}.yaml").train.seed for n in (2, 3)}
    assert seeds == {2: 1, 3: 2}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_files_of_a_run_have_the_permissions_of_the_umask(
    tmp_path: Path, demo_overrides: list[str], umask: int
) -> None:
    """Each file and folder, of checkpoints too."""
    run = tmp_path / "runs/one"
    command = ["train", *demo_overrides, f"output_dir={run}", "optim.epochs=1"]
    command += ["train.max_skipped_steps=3", "train.keep_checkpoints=2"]
    before = os.umask(umask)
    try:
        assert main(command) == 0
        assert main([*command, "optim.epochs=2", "train.accept_changes=true"]) == 0
    finally:
        os.umask(before)
    there = [run.parent, run, *run.rglob("*")]
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in there}
    assert {"runs/one/config.yaml", "runs/one/config.1.yaml", "runs/one/data.json"} <= set(modes)
    assert sum(name.endswith(".safetensors") for name in modes) >= 4
    assert any("events.out" in name for name in modes)
    wrong = {
        str(path): oct(path.stat().st_mode & 0o777)
        for path in there
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


def test_a_damaged_checkpoint_is_passed_over_when_asked(
    make: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run from the earlier checkpoint ends as the unbroken one did."""
    train(make())
    saved, run = weights(tmp_path / "run"), tmp_path / "run"
    (run / "ckpt/6" / checkpoint.MODEL).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"'.*ckpt/6' is damaged.*newest intact one is '.*ckpt/4'"):
        train(make())
    assert train(make("train.damaged_checkpoint=previous")).finished
    assert "WARNING: The checkpoint" in capsys.readouterr().err
    actual = weights(run)
    assert all(torch.equal(value, actual[key]) for key, value in saved.items())


def test_a_folder_in_which_another_training_runs(make: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make("optim.epochs=1"))
    (run / "ckpt/.5.partial").mkdir()
    before = sorted(run.rglob("*"))
    with hold(run), pytest.raises(UserError, match=r"is in use by process \d+ on host"):
        train(make("optim.epochs=2", "train.accept_changes=true"))
    assert sorted(run.rglob("*")) == before
    assert train(make("optim.epochs=2", "train.accept_changes=true")).finished
    assert not (run / NAME).exists()


def test_a_training_outlives_its_lock(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody removes it, and a quota refuses each heartbeat."""
    run, honest = tmp_path / "run", Path.write_text

    def refuse(self: Path, *arguments: Any, **keywords: Any) -> int:
        if NAME in self.name and (run / "metrics.jsonl").exists():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self))
        return honest(self, *arguments, **keywords)

    class Removed(Blobs):
        def image(self, index: int) -> torch.Tensor:
            if (run / "metrics.jsonl").exists():
                (run / NAME).unlink(missing_ok=True)
                time.sleep(0.01)
            return super().image(index)

    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setitem(DATASETS._obj_map, "blobs", Removed)
    assert train(make()).finished
    message = capsys.readouterr().err
    assert message.count(f"the lock '{run / NAME}' cannot be touched: the quota is used up") == 1
    assert checkpoint.steps(run / "ckpt")[-1] == 6


LAUNCHED = [
    {"WORLD_SIZE": "2"},
    {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"},
    {"OMPI_COMM_WORLD_SIZE": "2"},
]


@pytest.mark.parametrize("variables", LAUNCHED, ids=lambda variables: next(iter(variables)))
def test_processes_that_know_of_no_other_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"\d processes were started by .*: start them with 'torchrun"
    ):
        train(make())
    assert not (tmp_path / "run").exists()


def test_one_process_of_a_larger_job_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbatch --ntasks=8` with one command, `srun --ntasks=1`, and `torchrun --nproc-per-node=1`."""
    batch_script = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NPROCS": "8"}
    for variables in (batch_script, {"SLURM_STEP_NUM_TASKS": "1"}, {"WORLD_SIZE": "1"}, {}):
        assert launched(variables) == 1


@pytest.mark.parametrize("when", ["opened", "read"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC])
def test_images_that_cannot_be_read_are_no_full_disk(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, number: int
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise OSError(number, os.strerror(number), "/images/7.png")

    monkeypatch.setattr(Blobs, "__init__" if when == "opened" else "image", refuse)
    message = (
        r"data set 'blobs' cannot be read: '/images/7\.png'"
        if when == "opened"
        else "image '.*' could not be read"
    )
    with pytest.raises(UserError, match=message) as raised:
        train(make())
    assert "written" not in str(raised.value)
    assert (tmp_path / "run").exists() == (when == "read")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_a_console_that_refuses_is_no_full_disk(
    make: Make, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Display, "advance", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        train(make())
