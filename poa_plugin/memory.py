"""How much memory there is, and whether a network of a size fits into it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from poa_plugin.errors import UserError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container or a job may use."""


def total_memory(device: torch.device | str = "cpu") -> int:
    """Return the bytes of memory of a device; on the CPU, those that this process may use."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in map(Path, LIMITS):
        text = file.read_text().strip() if file.is_file() else ""
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes)


def check_memory(needed: int, what: str, then: str, device: torch.device | str = "cpu") -> None:
    """Raise a `UserError` if a device has less memory than is needed.

    Args:
        needed: bytes.
        what: needs them, to begin the sentence with.
        then: what can be done, to end it with.
        device: where.
    """
    there = total_memory(device)
    if needed > there:
        where = "the GPU" if torch.device(device).type == "cuda" else "this machine"
        raise UserError(
            f"{what} {_gigabytes(needed)} of memory, and {where} has {_gigabytes(there)}: {then}."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
