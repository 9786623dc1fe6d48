"""How much memory there is, and whether a network of a size fits into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from poa_plugin.errors import UserError

GROUPS = Path("/proc/self/cgroup")
"""The file with the control groups of this process; a container or a job is one."""
LIMITS = {"": "/sys/fs/cgroup/memory.max", "memory": "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
"""The files with the memory that the topmost group may use, by controller: version 2's has no name."""


def total_memory(device: torch.device | str = "cpu") -> int:
    """Return the bytes of memory of a device; on the CPU, those that this process may use."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return min([*sizes, *_limits()])


def _limits() -> Iterator[int]:
    """Yield the bytes that the control groups of this process, and those around them, may use."""
    groups = dict.fromkeys(LIMITS, "/")
    for line in _text(GROUPS).splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        groups |= {name: group for name in controllers.split(",") if name in LIMITS}
    for controller, group in groups.items():
        top = Path(LIMITS[controller])
        inside = top.parent / group.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(top.parent):
                text = _text(folder / top.name).strip()
                yield from [int(text)] if text.isdigit() else []


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # another system, or a group that a container does not see
        return ""


def check_memory(needed: int, what: str, advice: str, device: torch.device | str = "cpu") -> None:
    """Raise a `UserError` if a device has less memory than is needed.

    Args:
        needed: bytes.
        what: needs them, to begin the sentence with.
        then: what can be done, to end it with.
        device: where.
    """
    available = total_memory(device)
    if needed > available:
        where = "the GPU" if torch.device(device).type == "cuda" else "this machine"
        raise UserError(
            f"{what} {_gigabytes(needed)} of memory, and {where} has {_gigabytes(available)}: {advice}."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
