"""Functions on several ranks, each a process that finds the others as torchrun lets it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from poa_plugin import ranks


def on_ranks(
    world: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 240
) -> list[Any]:
    """Call a function on every rank, gloo's on the CPU, and return what each returned.

    Args:
        world: number of ranks; one runs in this process.
        function: of a module, with picklable arguments and a result that `torch.save` can write.
        arguments: of it.
        timeout_s: after which all are killed, and the test fails.
    """
    if world == 1:
        return [function(*arguments)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        processes = [
            context.Process(target=_run, args=(rank, world, port, folder, function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout_s)
                timeout_s = max(timeout_s / 2, 10)
        finally:
            for process in processes:
                process.kill()
        failures = [file.read_text() for file in sorted(Path(folder).glob("*.txt"))]
        assert not failures, "\n".join(failures)
        assert all(process.exitcode == 0 for process in processes), "a rank was killed, or hung"
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(world)]


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Return what torchrun sets for a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {**{name: str(number) for name, number in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}


def _run(
    rank: int,
    world: int,
    port: int,
    folder: str,
    function: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    os.environ.update(environment(rank, world, port))
    torch.set_num_threads(1)
    try:
        with ranks.joined(torch.device("cpu"), 120):
            torch.save(function(*arguments), Path(folder, str(rank)))
            ranks.wait_for_all()
    except BaseException:
        Path(folder, f"{rank}.txt").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise
