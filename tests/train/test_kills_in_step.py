"""A kill within a step, between two backward passes: the same command ends as an unbroken run does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.config.load import save_config
from poa_plugin.train import checkpoint
from poa_plugin.train.loop import train
from tests.conftest import Make
from tests.train.test_loop import lines, timeless, weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("passes", "centering"),
    [
        pytest.param(1, "sinkhorn_knopp", id="between the students of a shard"),
        pytest.param(2, "centering", id="between two shards"),
    ],
)
def test_a_kill_within_a_step(make: Make, tmp_path: Path, passes: int, centering: str) -> None:
    overrides = ("train.shards=2", "train.threads=1", f"train.centering={centering}")
    assert train(make(*overrides, f"output_dir={tmp_path / 'unbroken'}")).finished

    run, file = tmp_path / "run", tmp_path / "config.yaml"
    save_config(make(*overrides), file)
    command = ["train", str(file)]
    killed = subprocess.run(
        [sys.executable, "-m", "tests.train.killed_in_step", "3", str(passes), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.steps(run / "ckpt") == [2]  # and step 2 was taken after it
    assert main(command) == 0

    expected, actual = weights(tmp_path / "unbroken"), weights(run)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(value, actual[key]) for key, value in expected.items())
    assert timeless(lines(tmp_path / "unbroken")) == timeless(lines(run))
