"""Ranks that are killed at random, and restarts: the same weights on the same ranks, the same run on others.

`POA_KILLS` is the number of kills, 8 unless set.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poa_plugin.train import checkpoint
from tests.ranks.processes import TINY, Training, train
from tests.train.test_loop import lines, timeless, weights

KILLS = int(os.environ.get("POA_KILLS", "8"))
STEPS = 16
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 90 * KILLS)]


def arguments(run: Path, parallel: str = "replicate") -> list[str]:
    return [
        *TINY,
        "train.shards=12",
        f"train.OFFICIAL_EPOCH_LENGTH={STEPS // 2}",
        "train.checkpoint_period=2",
        f"train.parallel={parallel}",
        "train.joint_students=true",
        f"output_dir={run}",
    ]


def killed(
    folder: Path, run: Path, world: Callable[[], int], parallel: str, rng: random.Random, kills: int
) -> int:
    """Train until the end, killing a rank now and then; return how often one was killed.

    Args:
        folder: for the output of the ranks.
        run: the output folder of the training.
        world: the number of ranks of the next start.
        parallel: see `train.parallel`.
        rng: when to kill, and whom.
        kills: how often to kill; the start after the last kill is left alone.
    """
    done = starts = 0
    while True:
        starts += 1
        assert starts < 4 * (kills + 2), "the run makes no progress"
        n_ranks = world()
        of_start = folder / f"start{starts}"
        kind = parallel if n_ranks > 1 else "auto"
        with Training(n_ranks, of_start, arguments(run, kind)) as training:
            if done == kills:
                assert training.wait(seconds=300) == [0] * n_ranks, training.printed(0)
                return done
            before = size(run)
            deadline = time.monotonic() + 120
            while size(run) == before and training.processes[0].poll() is None:
                assert time.monotonic() < deadline, training.printed(0)
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
            victim = training.processes[rng.randrange(n_ranks)]
            done += victim.poll() is None
            victim.kill()
            statuses = training.wait(seconds=120)
            if statuses == [0] * n_ranks:
                return done


def size(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.stat().st_size if file.is_file() else 0


@pytest.mark.parametrize(("world", "parallel"), [(3, "fsdp2"), (4, "replicate")])
def test_on_the_same_ranks_the_weights_are_the_same(
    tmp_path: Path, world: int, parallel: str
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(world, tmp_path / "log", arguments(whole, parallel)).wait() == [0] * world
    kills = killed(
        tmp_path / "kills", run, lambda: world, parallel, random.Random(world), max(1, KILLS // 3)
    )
    assert kills >= 1
    assert checkpoint.steps(run / "ckpt")[-1] == STEPS
    expected, actual = weights(whole), weights(run)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(value, actual[key]) for key, value in expected.items())
    assert timeless(lines(whole)) == timeless(lines(run))


def test_on_other_ranks_the_run_is_the_same(tmp_path: Path) -> None:
    whole, run, rng = tmp_path / "whole", tmp_path / "run", random.Random(0)
    assert train(1, tmp_path / "log", arguments(whole, "auto")).wait() == [0]
    worlds = [1, 2, 3, 4]
    for parallel in ("replicate", "fsdp2"):
        kills = max(1, KILLS // 4)
        target = run / parallel
        assert killed(
            tmp_path / f"kills_{parallel}", target, lambda: rng.choice(worlds), parallel, rng, kills
        )
        for ours, expected in zip(lines(target), lines(whole), strict=True):
            assert ours["step"] == expected["step"]
            assert ours["subnets"] == expected["subnets"]
            assert ours["terms"] == pytest.approx(expected["terms"], rel=1e-5, abs=1e-5)
