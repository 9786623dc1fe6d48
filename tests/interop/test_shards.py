"""A file for each rank: what torch's FSDP wrote on several processes is joined to the run that it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.interop.shards import join, read_inert
from poa_plugin.runs.run import open_run
from poa_plugin.train import checkpoint
from tests.conftest import FAMILIES
from tests.interop.published_configs import published_config, write_yaml
from tests.interop.published_files import published_order
from tests.interop.sharded_files import ITERATION, branches, write_ranks
from tests.parity.published import student_key

NAME = f"model_{ITERATION:07}"
families = pytest.mark.parametrize("family", FAMILIES)
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of every family, divided between two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    write_ranks(folder, 2, list(FAMILIES))
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of one of them."""
    return Path(shutil.copytree(runs / "vit", tmp_path / "vit"))


@families
def test_a_run_is_joined(
    runs: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights and moments are those that were divided, and the run's own configuration is actual."""
    config = published_config(family)
    config["optim"] |= {"patch_embed_lr_mult": 0.2, "layerwise_decay": 0.9}
    folder = Path(shutil.copytree(runs / family, tmp_path / "published"))
    file = write_yaml(config, folder / "config.yaml")
    argv = ["import", str(folder), "--to", str(tmp_path / "run"), "--config", "train.device=cpu"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "The files of 2 ranks were joined" in said
    assert f"Taken from '{file}'" in said
    _, tensors, _ = branches(family)
    ckpt = tmp_path / f"run/ckpt/{ITERATION + 1}"
    actual, moments = load_file(ckpt / checkpoint.MODEL), load_file(ckpt / checkpoint.OPTIMIZER)
    assert len(moments) == 3 * sum(x.is_floating_point() for x in tensors["student"].values())
    for branch, published in tensors.items():
        for name, value in published.items():
            ours = student_key(family)(name)
            if not value.is_floating_point():
                continue
            assert torch.equal(published_order(ours, actual[f"{branch}.{ours}"]), value), name
            if branch == "student":
                wanted = {"exp_avg": 2 * value, "exp_avg_sq": value**2}
                for key, moment in wanted.items():
                    stored = published_order(ours, moments[f"{ours}/{key}"])
                    assert torch.equal(stored, moment), name
    assert open_run(tmp_path / "run").config.train.shards == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_a_ranks_file_stands_for_all(runs: Path, rank: int) -> None:
    read = read_checkpoint(runs / f"swin/{NAME}.rank_{rank}.pth")
    assert read.iteration == ITERATION
    assert read.is_flat
    assert read.entries["student.backbone.norm.weight"].tensor.shape == (128,)


def test_training_goes_on(run: Path, tmp_path: Path) -> None:
    overrides = ["train.device=cpu", "student.vit.head_dim=8", "optim.epochs=1"]
    done = import_checkpoint(run / f"{NAME}.rank_0.pth", tmp_path / "run", overrides=overrides)
    assert done.step == ITERATION + 1
    assert any("with the optimizer's moments" in message for message in done.messages)


def edit(file: Path, change: Edit) -> None:
    """Change what a rank's file holds; sharded tensors cannot be written without their process group."""
    contents = read_inert(file)
    contents["model"] = {k: v for k, v in contents["model"].items() if "_flat_param" not in k}
    change(contents)
    torch.save(contents, file)


def refused(path: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as error:
        import_checkpoint(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_ranks_that_are_missing(run: Path, tmp_path: Path) -> None:
    (run / f"{NAME}.rank_1.pth").rename(tmp_path / "kept.pth")
    said = refused(run / f"{NAME}.rank_0.pth", tmp_path)
    assert f"divided among 2 ranks, and of their files '{NAME}.rank_1.pth' are missing" in said
    (tmp_path / "kept.pth").rename(run / f"{NAME}.rank_1.pth")
    (run / f"{NAME}.rank_0.pth").unlink()
    assert f"'{NAME}.rank_0.pth'" in refused(run / f"{NAME}.rank_1.pth", tmp_path)
    assert "cannot be read: it does not exist" in refused(run, tmp_path)


def test_ranks_that_were_exchanged(run: Path, tmp_path: Path) -> None:
    first, second = (run / f"{NAME}.rank_{rank}.pth" for rank in range(2))
    first.rename(tmp_path / "first.pth")
    second.rename(first)
    (tmp_path / "first.pth").rename(second)
    assert "holds what belongs to rank 1: it was renamed" in refused(run, tmp_path)


def test_ranks_of_other_runs(runs: Path, run: Path, tmp_path: Path) -> None:
    shutil.copy(runs / f"swin/{NAME}.rank_1.pth", run / f"{NAME}.rank_1.pth")
    assert "are of different iterations, runs or numbers of GPUs" in refused(run, tmp_path)
    shutil.copy(runs / f"vit/{NAME}.rank_1.pth", run / f"{NAME}.rank_1.pth")
    shutil.copy(runs / f"vit/{NAME}.rank_1.pth", run / f"{NAME}.rank_2.pth")
    assert "holds what belongs to rank 1" in refused(run, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(iteration=3), "are of different iterations"),
        (lambda c: c.pop("model"), "has no entry 'model'"),
        (lambda c: None, "are of different iterations, runs"),
    ],
)
def test_ranks_that_differ(run: Path, tmp_path: Path, change: Edit, said: str) -> None:
    edit(run / f"{NAME}.rank_1.pth", change)
    assert said in refused(run, tmp_path)


def test_files_without_divided_parameters(run: Path, tmp_path: Path) -> None:
    """Whole files on every rank are one file; those that differ are no run's."""
    for rank in range(2):
        edit(run / f"{NAME}.rank_{rank}.pth", lambda contents: contents.pop("optimizer"))
    assert "hold neither the parts of" in refused(run, tmp_path)
    _, tensors, _ = branches("vit")
    teacher = {f"teacher.{key}": value for key, value in tensors["teacher"].items()}
    for rank in range(2):
        torch.save({"model": teacher}, run / f"{NAME}.rank_{rank}.pth")
    overrides = ["train.device=cpu", "student.vit.head_dim=8"]
    assert import_checkpoint(run, tmp_path / "run", overrides=overrides).step == 0
    state = {0: {"step": torch.tensor(1.0), "exp_avg": torch.arange(5.0)}}
    optimizer = {"state": state, "param_groups": [{"params": [0]}]}
    files = [run / f"{NAME}.rank_{rank}.pth" for rank in range(2)]
    for file in files:
        torch.save({"model": teacher, "optimizer": optimizer}, file)
    moments = join(files)[0]["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], torch.arange(5.0)), "whole, and not one after the other"
    flat = {"model": {"student.backbone._flat_param": torch.zeros(10)}}
    torch.save(flat, run / f"{NAME}.rank_0.pth")
    torch.save(flat, run / f"{NAME}.rank_1.pth")
    with pytest.raises(
        UserError, match=r"are called 'student\.backbone\._flat_param'|'_flat_param'"
    ):
        read_checkpoint(run / f"{NAME}.rank_0.pth")


def test_folders(run: Path, tmp_path: Path) -> None:
    (run / "last_checkpoint.rank_1").write_text("model_0000003.rank_1.pth")
    assert f"that name model_0000003 and {NAME}, where one" in refused(run, tmp_path)
    for tag in run.glob("last_checkpoint*"):
        tag.unlink()
    assert "that name none" in refused(run, tmp_path)


class _Gadget:
    """A pickle that fetches a function by `getattr` and calls it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (getattr(os, "system"), (f"touch '{self.path}'",))  # noqa: B009


class _Member:
    """A pickle that calls `getattr` on a function of `torch.distributed`."""

    def __reduce__(self) -> tuple:
        return (getattr, (torch.distributed.get_rank, "__globals__"))


def test_nothing_in_a_ranks_file_is_run(run: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    file = run / f"{NAME}.rank_0.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "x": [_Member(), _Gadget(trap)]}, file)
    assert "('posix.system') that only code named in the file could make" in refused(run, tmp_path)
    assert not trap.exists()
    torch.save({"model": {"a": torch.zeros(1)}, "x": [_Member()]}, file)
    actual = read_inert(file)["x"][0]
    assert not isinstance(actual, dict)
