"""Whatever happens to one rank, all end, within a time limit, with a sentence that names it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from poa_plugin.train import checkpoint
from tests.ranks.processes import ROOT, TINY, Training, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TIMEOUT = 20
"""`train.timeout_s` of these trainings; all are given twice as long, for processes to start."""


def tiny(folder: Path, *overrides: str) -> list[str]:
    return [*TINY, "train.shards=6", f"output_dir={folder / 'run'}", *overrides]


def faulty(
    folder: Path, world: int, faults: Sequence[tuple[int, int, str]], *overrides: str
) -> Training:
    return Training(world, folder, tiny(folder, *overrides), faults)


@pytest.mark.parametrize("parallel", ["replicate", "fsdp2"])
def test_a_loss_that_is_not_finite_on_one_rank(tmp_path: Path, parallel: str) -> None:
    with faulty(tmp_path, 2, [(1, 3, "nan")], f"train.parallel={parallel}") as training:
        assert training.wait() == [0, 0]
    [record] = (tmp_path / "run/skipped_steps.jsonl").read_text().splitlines()
    skipped = json.loads(record)
    assert skipped["step"] == 3
    assert skipped["not_finite"] == ["cross_view_intact_local on rank 1"]
    assert len(skipped["image_ids"]) == len(skipped["subnets"]) == 6
    assert checkpoint.steps(tmp_path / "run/ckpt")[-1] == 8


def test_a_rank_that_is_killed(tmp_path: Path) -> None:
    with faulty(tmp_path, 3, [(1, 3, "kill")]) as training:
        assert training.wait() == [2, -signal.SIGKILL, 2]
        for rank in (0, 2):
            assert "Rank 1 (process" in training.printed(rank)
            assert "gave no sign of life" in training.printed(rank)
    assert checkpoint.steps(tmp_path / "run/ckpt")[-1] == 2


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_stands_still(tmp_path: Path, stopped: int) -> None:
    others = [rank for rank in range(3) if rank != stopped]
    with faulty(tmp_path, 3, [(stopped, 3, "stop")]) as training:
        began = time.monotonic()
        assert training.wait(others) == [2, 2]
        assert time.monotonic() - began < 2 * TIMEOUT + 20
        for rank in others:
            assert f"Rank {stopped} (process" in training.printed(rank)
            assert "last seen in step" in training.printed(rank)
        training.processes[stopped].send_signal(signal.SIGCONT)
        assert training.wait([stopped], 30) == [2]  # it hears of it, and writes nothing more


def test_a_rank_that_hangs_but_lives(tmp_path: Path) -> None:
    with faulty(tmp_path, 2, [(1, 3, "sleep")]) as training:
        assert training.wait() == [2, 2]
        assert "Rank 1 (process" in training.printed(0)
        assert f"did nothing for {0.7 * TIMEOUT:.0f} seconds" in training.printed(0)


@pytest.mark.parametrize("what", ["term", "interrupt"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank(tmp_path: Path, what: str, rank: int) -> None:
    number = {"term": signal.SIGTERM, "interrupt": signal.SIGINT}[what]
    with faulty(tmp_path, 2, [(rank, 3, what)]) as training:
        assert training.wait() == [128 + number] * 2
        assert "Stopped after step 4 of 8" in training.printed(0)
    assert checkpoint.steps(tmp_path / "run/ckpt")[-1] == 4
    assert train(2, tmp_path / "again", tiny(tmp_path)).wait() == [0, 0]


def test_an_exception_on_one_rank(tmp_path: Path) -> None:
    with faulty(tmp_path, 3, [(2, 3, "raise")]) as training:
        statuses = training.wait()
        assert statuses[:2] == [2, 2]
        assert statuses[2] in (
            2,
            70,
        )  # that of an error in the program; or it heard of the others first
        for rank in (0, 1):
            printed = training.printed(rank)
            assert "Rank 2 (process" in printed
            assert "has ended: ValueError: a fault of the test" in printed


def test_a_full_disk_on_one_rank(tmp_path: Path) -> None:
    with faulty(tmp_path, 2, [(1, 0, "full_disk")]) as training:
        assert training.wait() == [2, 2]
        for rank in (0, 1):
            assert "cannot be written under" in training.printed(rank)
            assert "by rank 1 on " in training.printed(rank)
            assert "the disk is full" in training.printed(rank)
    assert checkpoint.steps(tmp_path / "run/ckpt") == []


@pytest.mark.parametrize("allowed", [True, False])
def test_bad_images_on_one_rank(tmp_path: Path, allowed: bool) -> None:
    """They are counted on all ranks, written by rank 0, and end all where there are too many."""
    faults = [(1, index, "bad_image") for index in range(4)]
    ratio = f"data.max_bad_ratio={0.5 if allowed else 0.01}"
    with faulty(tmp_path, 2, faults, ratio) as training:
        assert training.wait() == ([0, 0] if allowed else [2, 2])
        for rank in (0, 1):
            printed = training.printed(rank)
            assert (
                "of 12 images cannot be used, more than data.max_bad_ratio" in printed
            ) != allowed
    if allowed:
        records = (tmp_path / "run/bad_images.jsonl").read_text().splitlines()
        assert {json.loads(record)["image"] for record in records} <= set("0123")
        assert len(records) > 1


def test_images_that_differ_between_ranks(tmp_path: Path) -> None:
    with faulty(tmp_path, 2, [(1, 0, "other_images")]) as training:
        assert training.wait() == [2, 2]
        assert "Not all ranks see the same images under data.path" in training.printed(0)
        assert "rank 1 on " in training.printed(0)


def test_torchrun(tmp_path: Path) -> None:
    """The command of the docs; ranks that torchrun starts, and whose number does not divide the shards."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    given = json.dumps({"arguments": tiny(tmp_path), "faults": []})
    ended = {
        n: subprocess.run(
            [*torchrun, str(n), "-m", "tests.ranks.trainee", given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for n in (2, 4)
    }
    assert ended[2].returncode == 0, ended[2].stderr
    assert ended[2].stdout.count("ranks       2, replicate") == 1
    assert checkpoint.steps(tmp_path / "run/ckpt")[-1] == 8
    assert ended[4].returncode != 0
    assert "4 ranks cannot share the 6 shards of a step (train.shards) equally: start 3 or 6" in (
        ended[4].stderr
    )


def test_a_second_run_in_the_same_folder_from_another_host(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    holder = {"token": "x", "host": "another", "pid": 7, "since": "2026-12-01 00:00:00"}
    (run / "train.lock").write_text(json.dumps(holder))
    with faulty(tmp_path, 2, []) as training:
        assert training.wait() == [2, 2]
        for rank in (0, 1):
            assert "is in use by process 7 on host 'another'" in training.printed(rank)
