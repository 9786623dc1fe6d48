"""The variables by which ranks find one another, from those that srun sets."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

FIRST_PORT, PORTS = 20000, 20000


def rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that torchrun would set, from those of srun; those that are set stay.

    Ranks meet on the first node, at a port that follows from the job and the attempt.
    """
    step_nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    world = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    job, restarts = (
        environment.get("SLURM_JOB_ID", "0"),
        environment.get("SLURM_RESTART_COUNT", "0"),
    )
    variables = {
        "RANK": environment.get("SLURM_PROCID", "0"),
        "WORLD_SIZE": world,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": environment.get("SLURM_NTASKS_PER_NODE", world),
        "MASTER_ADDR": _first_host(step_nodes) if world != "1" else "127.0.0.1",
        "MASTER_PORT": str(FIRST_PORT + (7 * int(job) + int(restarts)) % PORTS),
        "OMP_NUM_THREADS": environment.get("SLURM_CPUS_PER_TASK", "1"),
    }
    return {name: value for name, value in variables.items() if name not in environment}


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's node list, such as `n[0-3,7]`."""
    if not nodes:
        return "127.0.0.1"
    command = ["scontrol", "show", "hostnames", nodes]
    hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return hosts[0]
