"""A group of processes on this machine that run several cases, each with as many of them as it names.

A process needs seconds to import torch, so that one group runs all cases of a module.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import multiprocessing

PROCESSES = 4
SECONDS = 120.0


class Case(NamedTuple):
    """Runs on `ranks` processes, joined by gloo, with a folder that all cases share.

    Attributes:
        name: of the case.
        ranks: how many processes.
        run: a function of a module, so that it can be handed to another process.
    """

    name: str
    ranks: int
    run: Callable[[Path], None]


def run_cases(cases: Sequence[Case], folder: Path) -> dict[str, list[str]]:
    """Run cases in their order; return what each rank has raised, by case: an empty text if nothing."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    group = multiprocessing.start_processes(
        _process, (list(cases), folder, barrier), PROCESSES, join=False, start_method="spawn"
    )
    while not group.join(timeout=1):
        pass
    return {
        case.name: [
            json.loads((folder / f"{case.name}.{rank}.outcome").read_text())
            for rank in range(case.ranks)
        ]
        for case in cases
    }


def _process(rank: int, cases: Sequence[Case], folder: Path, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    for case in cases:
        if rank < case.ranks:
            outcome = _outcome(rank, case, folder)
            (folder / f"{case.name}.{rank}.outcome").write_text(json.dumps(outcome))
        barrier.wait(SECONDS)


def _outcome(rank: int, case: Case, folder: Path) -> str:
    store = dist.FileStore(str(folder / f"{case.name}.store"), case.ranks)
    limit = timedelta(seconds=SECONDS / 4)
    dist.init_process_group("gloo", None, limit, case.ranks, rank, store)
    try:
        case.run(folder)
    except Exception:
        return traceback.format_exc()
    finally:
        with suppress(RuntimeError):  # a group of which one process has failed
            dist.destroy_process_group()
    return ""
