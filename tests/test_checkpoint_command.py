"""`poa checkpoint`: what it prints, and its exit statuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.train.integrity import read_manifest
from poa_plugin.train.lock import hold
from tests.command_checks import fails, tree
from tests.train.make_checkpoint import CHECKPOINTS, STEP, split
from tests.train.test_checkpoint import write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a checkpoint of three ranks."""
    return shutil.copytree(CHECKPOINTS / "v2", tmp_path / "run")


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A run with small checkpoints of three steps, the second of them of two ranks."""
    run = tmp_path / "small"
    write(run / "ckpt", 1, 2, 3)
    split(run / "ckpt", 2, ranks=2)
    (run / "config.yaml").write_text("")
    return run


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    status = main(["checkpoint", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


def test_inspect(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"""\
checkpoint  {run}/ckpt/3
step        3
format      version 2
written by  3 ranks
files       6 of tensors, 166k bytes with the others

tensors of   number   values    bytes
student          51    2.77k    11.1k
teacher          51    2.77k    11.1k
others           13       61      236
optimizer       153    5.58k    22.3k

types: 263 float32, 4 bool, 1 int64
"""
    assert said(capsys, "inspect", run) == (0, expected)
    assert said(capsys, "inspect", run / "ckpt" / str(STEP)) == (0, expected)
    assert said(capsys, "inspect", run, "--step", STEP) == (0, expected)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_inspect_earlier_versions(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(capsys, "inspect", CHECKPOINTS / version)
    assert status == 0
    assert "format      version 1\nwritten by  one process\nfiles       2 of tensors" in text
    assert "optimizer       153    5.58k    22.3k" in text


def test_inspect_a_damaged_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / f"ckpt/{STEP}/manifest.json").write_text("{")
    assert f"The checkpoint '{run}/ckpt/3' cannot be read: " in fails(
        capsys, "checkpoint", "inspect", str(run)
    )
    (run / f"ckpt/{STEP}/manifest.json").unlink()
    assert "manifest.json' cannot be read: it does not exist." in fails(
        capsys, "checkpoint", "inspect", str(run)
    )


def test_verify_all_of_a_run(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(capsys, "verify", small_run)
    assert status == 0
    assert [line.split(" bytes")[0].rsplit(", ", 1)[0] for line in text.splitlines()] == [
        "step 1: intact, 2 files",
        "step 2: intact, 4 files",
        "step 3: intact, 2 files",
    ]
    shutil.copy(small_run / "ckpt/1/model.safetensors", small_run / "ckpt/3/model.safetensors")
    (small_run / "ckpt/2/optimizer-00002-of-00002.safetensors").unlink()
    status, text = said(capsys, "verify", small_run)
    assert status == 1
    assert text.splitlines()[1:] == [
        "step 2: damaged: its file optimizer-00002-of-00002.safetensors is missing",
        "step 3: damaged: its file model.safetensors was written for step 1",
    ]
    status, text = said(capsys, "verify", small_run / "ckpt/1")
    assert (status, text.count("\n")) == (0, 1)


def test_verify_names_a_newer_format(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.train.test_formats import rewrite_state

    rewrite_state(run / f"ckpt/{STEP}", format_version=9)
    status, text = said(capsys, "verify", run)
    assert status == 1
    assert text.startswith("step 3: not compared. The checkpoint")
    assert "Upgrade poa_plugin" in text


def test_consolidate(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(capsys, "consolidate", small_run, "--step", 2)
    assert (status, text) == (
        0,
        f"Rewrote '{small_run}/ckpt/2' as the files of one process.\n",
    )
    assert read_manifest(small_run / "ckpt/2").is_whole
    status, text = said(capsys, "consolidate", small_run / "ckpt/2")
    assert (status, text) == (
        0,
        f"'{small_run}/ckpt/2' has the files of one process already.\n",
    )
    assert said(capsys, "verify", small_run)[0] == 0
    assert not [name for name in tree(small_run) if "lock" in name or "/." in name]


def test_consolidate_while_a_training_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold(run):
        assert f"'{run}' is in use by process" in fails(
            capsys, "checkpoint", "consolidate", str(run)
        )
    assert not read_manifest(run / f"ckpt/{STEP}").is_whole


@pytest.mark.parametrize("command", ["inspect", "verify", "consolidate"])
def test_paths_that_are_no_run(
    command: str, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "none")
    assert "is not the output folder of a run" in fails(capsys, "checkpoint", command, absent)
    inner = str(small_run / "ckpt")
    assert "it holds the checkpoints of a run" in fails(capsys, "checkpoint", command, inner)
    other = str(small_run / "ckpt/7")
    message = f"'{small_run}' has no checkpoint of step 7; there are 1, 2, 3."
    assert message in fails(capsys, "checkpoint", command, other)
    if command != "verify":
        argv = ["checkpoint", command, str(small_run / "ckpt/1"), "--step", "2"]
        assert "is the checkpoint of step 1, and --step is 2" in fails(capsys, *argv)
    shutil.rmtree(small_run / "ckpt")
    assert "has no checkpoint yet" in fails(capsys, "checkpoint", command, str(small_run))


def test_a_sweep_remains_valid_when_its_checkpoint_is_consolidated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweep and extraction read pieces; the weights are the same afterwards, and known to be."""
    assert main(["sweep", str(run), "--k", "3", "--no-latency"]) == 0
    rows = json.loads((run / "eval/results.json").read_text())
    assert main(["checkpoint", "consolidate", str(run)]) == 0
    argv = ["pick", str(run), "--max-params", "1G", "--k", "3", "--to", str(tmp_path / "net")]
    assert main(argv) == 0
    assert (tmp_path / "net/model.safetensors").is_file()
    assert main(["sweep", str(run), "--k", "3", "--no-latency"]) == 0
    assert json.loads((run / "eval/results.json").read_text()) == rows
    capsys.readouterr()


@pytest.mark.parametrize("path", ["", "model-00002-of-00003.safetensors"])
def test_import_reads_pieces(path: str, run: Path, tmp_path: Path) -> None:
    from poa_plugin.interop import read_checkpoint

    folder = run / f"ckpt/{STEP}"
    pieces = read_checkpoint(folder / path)
    assert main(["checkpoint", "consolidate", str(run)]) == 0
    whole = read_checkpoint(folder / "model.safetensors")
    assert pieces.entries.keys() == whole.entries.keys()
    assert len(whole.entries) == 115
    assert all(bool((pieces.entries[n].tensor == x.tensor).all()) for n, x in whole.entries.items())
