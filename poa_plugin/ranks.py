"""The processes of a training: which this one is, and what they tell one another.

A process that is started by itself is rank 0 of one, and every call here is then free of communication.
Collectives are called by all ranks in the same order.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from poa_plugin.errors import UserError

T = TypeVar("T")

OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""Variables that launchers other than torchrun set for each process they start, to the number of processes.

`SLURM_NTASKS` is not among them: it counts what a job may start, and is also set for a batch script, which is
one process.
"""


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes this one was started with, itself included.

    Raises:
        UserError: several were started, but without the addresses that torchrun gives them.
    """
    world = environment.get("WORLD_SIZE", "")
    if world.isdigit() and "RANK" in environment:
        return int(world)
    counts = {"WORLD_SIZE": "the environment", **OTHER_LAUNCHERS}
    for variable, launcher in counts.items():
        number = environment.get(variable, "")
        if number.isdigit() and int(number) > 1:
            raise UserError(
                f"{number} processes were started by {launcher} ({variable}={number}), which do not know of "
                f"one another: start them with 'torchrun --nproc-per-node N -m poa_plugin train ...'."
            )
    return 1


@contextmanager
def joined(device: torch.device, timeout_s: float) -> Iterator[None]:
    """Join the other processes that a launcher started, while the context lasts; does nothing for one process.

    Host memory is exchanged by gloo, that of GPUs by NCCL. Each process takes the GPU of its local rank, or the
    one that its launcher lets it see.

    Args:
        device: of the model.
        timeout_s: seconds after which a collective that not all ranks have reached raises.

    Raises:
        UserError: the other processes cannot be reached.
    """
    if launched() == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The {launched()} processes cannot find one another: {reason}.") from error
    try:
        yield
        with suppress(RuntimeError):  # of a rank that is gone; it has said why
            wait_for_all()  # one that leaves early breaks connections that others still use
    finally:
        dist.destroy_process_group()


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Return the number of this process among those of its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Return whether this process writes what one process of a run writes."""
    return rank() == 0


def name() -> str:
    """Return how this process is called in messages."""
    return f"rank {rank()} on '{socket.gethostname()}'"


def my_shards(shards: int) -> range:
    """Return which of a step's shards this process runs: a run of consecutive ones.

    Raises:
        UserError: the ranks do not divide the shards; the nearest numbers that do are named.
    """
    n_ranks = world()
    if shards % n_ranks:
        nearest = " or ".join(map(str, nearest_ranks(shards, n_ranks)))
        raise UserError(
            f"{n_ranks} ranks cannot share the {shards} shards of a step (train.shards) equally: start "
            f"{nearest}."
        )
    each = shards // n_ranks
    return range(rank() * each, (rank() + 1) * each)


def nearest_ranks(shards: int, n_ranks: int) -> list[int]:
    """Return the next lower and, if there is one, the next higher number of ranks that divides the shards."""
    divisors = [n for n in range(1, shards + 1) if shards % n == 0]
    above = [n for n in divisors if n > n_ranks]
    return [max(n for n in divisors if n < n_ranks), *above[:1]]


def gathered(tensor: Tensor) -> Tensor:
    """Return all ranks' tensors along the first dimension, in the order of ranks.

    Args:
        tensor: (N, ...), of the same shape on every rank.

    Returns:
        (world * N, ...).
    """
    if world() == 1:
        return tensor
    tensor = tensor.contiguous()
    everywhere = tensor.new_empty((world() * len(tensor), *tensor.shape[1:]))
    # The second is the name that older versions of torch have for it.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(everywhere, tensor)
    return everywhere


def gathered_objects(value: T) -> list[T]:
    """Return all ranks' values, in the order of ranks; for rare and small ones."""
    if world() == 1:
        return [value]
    values: list[T | None] = [None] * world()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def of_first(value: T) -> T:
    """Return rank 0's value on every rank; for rare and small ones."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Return when all ranks have come here."""
    if world() > 1:
        dist.barrier()


def add_up(tensor: Tensor) -> None:
    """Replace a tensor by the sum of all ranks' ones, in place."""
    if world() > 1:
        dist.all_reduce(tensor)


def take_largest(tensor: Tensor) -> None:
    """Replace a tensor by the largest of all ranks' values, in place."""
    if world() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)


def anywhere(flags: Sequence[bool]) -> list[bool]:
    """Return for each flag whether it is set on any rank; exchanged in host memory, without the GPU."""
    if world() == 1:
        return list(flags)
    tensor = torch.tensor(flags, dtype=torch.uint8)
    take_largest(tensor)
    return [bool(flag) for flag in tensor.tolist()]
