"""A run that is killed again and again ends as one that was not: the same weights, the same metrics.

Every second start writes its checkpoints in a thread.

`POA_KILLS` is the number of kills, 20 unless set.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poa_plugin.train import checkpoint
from tests.train.test_loop import lines, timeless, weights

KILLS = int(os.environ.get("POA_KILLS", "20"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 60 * KILLS)]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not true():
        time.sleep(0.0005)


def size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def kill_at_random(
    process: subprocess.Popen[bytes], run: Path, rng: random.Random, moment: str
) -> bool:
    """Kill a run, its workers with it, at a moment of a kind; return whether it was still alive."""
    if moment == "any":
        wait_until(lambda: False, process, rng.uniform(0, 8))
    else:
        before = size(run / "metrics.jsonl")
        wait_until(lambda: size(run / "metrics.jsonl") > before, process, 60)
        wait_until(lambda: False, process, rng.uniform(0, 0.5))
        if moment == "writing":
            wait_until(lambda: any((run / "ckpt").glob(".*.partial")), process, 30)
            wait_until(lambda: False, process, rng.uniform(0, 0.03))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def test_a_run_killed_again_and_again(demo_overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poa_plugin", "train", *demo_overrides]
    command += [
        f"optim.epochs={12 * KILLS}",
        "train.shards=2",
        "train.log_period=3",
        "train.checkpoint_period=4",
        "train.keep_every=9",
        "data.num_workers=1",
        "train.centering=centering",
    ]
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*command, f"output_dir={whole}"], check=True, stdout=subprocess.DEVNULL)

    rng, log = random.Random(0), tmp_path / "log"
    killed = {"any": 0, "training": 0, "writing": 0}
    writing = 0
    while sum(killed.values()) < KILLS:
        moment = ("any", "training", "writing")[sum(killed.values()) % 3]
        in_a_thread = f"train.async_checkpoints={str(sum(killed.values()) % 2 == 1).lower()}"
        process = start([*command, in_a_thread, f"output_dir={run}"], log)
        if not kill_at_random(process, run, rng, moment):
            assert process.returncode == 0, log.read_text()
            break
        killed[moment] += 1
        writing += any((run / "ckpt").glob(".*.partial"))
    print(
        f"killed: {killed}, of these {writing} within a checkpoint; {checkpoint.steps(run / 'ckpt')}"
    )
    assert sum(killed.values()) == KILLS, f"the run ended after {killed}: give it more steps"
    assert writing
    subprocess.run([*command, f"output_dir={run}"], check=True, stdout=subprocess.DEVNULL)

    ours, theirs = weights(whole), weights(run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert timeless(lines(whole)) == timeless(lines(run))
    assert checkpoint.steps(whole / "ckpt") == checkpoint.steps(run / "ckpt")
    assert "Traceback" not in log.read_text()
