"""One process trains: how a process detects that it is one of several."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from poa_plugin.errors import UserError

LAUNCHERS = {
    "WORLD_SIZE": "torchrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""Variables that a launcher sets for each of the processes it starts, to their number.

`SLURM_NTASKS` is not among them: it counts what a job may start, and is also set for a batch script, which is
one process.
"""


def refuse_several_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to train as one of several processes, each of which would write into the same folder.

    Raises:
        UserError: a launcher has started more than one; it is named, with their number.
    """
    for variable, launcher in LAUNCHERS.items():
        value = environment.get(variable, "")
        if value.isdigit() and int(value) > 1:
            _refuse(f"{value} processes were started by {launcher} ({variable}={value})")
    distributed = torch.distributed
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    if ranks > 1:
        _refuse(f"torch.distributed has {ranks} ranks")


def _refuse(what: str) -> None:
    raise UserError(
        f"Training runs in one process, and {what}: start a single one. The batch of several GPUs, a shard for "
        f"each, is train.shards; one process computes the shards one after the other."
    )
