"""Trainings of several ranks, each a process of its own with its output in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests.conftest import SMALL
from tests.ranks.launch import environment

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "vit",
    *SMALL,
    "data.dataset=blobs",
    "train.batch_size_per_shard=1",
    "train.OFFICIAL_EPOCH_LENGTH=4",
    "train.checkpoint_period=2",
    "train.log_period=1",
    "train.loggers=[]",
    "train.threads=1",
    "train.precision=fp32",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "optim.freeze_last_layer_epochs=0",
    "train.timeout_s=20",
]
"""A run of eight steps."""


class Training:
    """A training of several ranks, which the test ends if it does not end itself.

    The test has the store through which the ranks find one another, as torchrun's agent would.

    Args:
        world: number of ranks.
        folder: for their output.
        arguments: of `poa train`.
        faults: see `tests.ranks.trainee`.
    """

    def __init__(
        self,
        world: int,
        folder: Path,
        arguments: Sequence[str],
        faults: Sequence[tuple[int, int, str]] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        wait = timedelta(seconds=60)
        self.store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, timeout=wait, wait_for_workers=False
        )
        given = json.dumps({"arguments": list(arguments), "faults": [list(f) for f in faults]})
        command = [sys.executable, "-m", "tests.ranks.trainee", given]
        self.processes = []
        for rank in range(world):
            of_rank = environment(rank, world, self.store.port)
            of_rank["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            with self.log(rank).open("w") as log:
                process = subprocess.Popen(
                    command, cwd=ROOT, env={**os.environ, **of_rank}, stdout=log, stderr=log
                )
            self.processes.append(process)

    def log(self, rank: int) -> Path:
        """Return the file that a rank prints into."""
        return self.folder / f"rank{rank}.log"

    def printed(self, rank: int) -> str:
        """Return what a rank has printed."""
        return self.log(rank).read_text()

    def wait(self, ranks: Sequence[int] | None = None, seconds: float = 90) -> list[int]:
        """Wait until some ranks have ended, all by default; return their exit statuses."""
        deadline = time.monotonic() + seconds
        chosen = [self.processes[rank] for rank in (ranks or range(len(self.processes)))]
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in chosen]
        except subprocess.TimeoutExpired:
            self.end()
            printed = "\n".join(self.printed(rank) for rank in range(len(self.processes)))
            raise AssertionError(
                f"ranks did not end within {seconds} seconds:\n{printed}"
            ) from None

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def train(
    world: int,
    folder: Path,
    arguments: Sequence[str],
    faults: Sequence[tuple[int, int, str]] = (),
) -> Training:
    """Train on several ranks until all have ended."""
    with Training(world, folder, arguments, faults) as training:
        training.wait()
    return training
