"""The device and the CPU threads to run on."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from poa_plugin.errors import UserError

MAX_THREADS = 1024
MALLOC_OPTIONS = ((-4, 0, 65_536), (-1, 2**31 - 1, 128 * 1024))
"""glibc's M_MMAP_MAX and M_TRIM_THRESHOLD (`malloc.h`), with what keeps memory, and the defaults."""
BF16_FLAGS = frozenset(("amx_bf16", "avx512_bf16", "bf16"))
"""Of /proc/cpuinfo: a CPU that has instructions for products of bf16."""


class _NoDraws(TorchFunctionMode):
    """Leaves out the drawing of initial weights."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules that have shapes and no memory.

    Nothing is drawn for them either: on the meta device, torch's generators import its compiler first, which
    takes a second.
    """
    with torch.device("meta"), _NoDraws():
        yield


def resolve_device(name: str) -> torch.device:
    """Return the device a configuration asks for; `auto` is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is 'cuda', but no GPU is available: use auto or cpu.")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if chosen == "auto" else chosen)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the copy: pageable memory is pinned first."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass in a recipe's precision: fp32, bf16 or fp16."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices of bf16 faster than those of float32.

    A CPU does where its flags name such instructions (x86's AMX and AVX-512 extensions, Arm's); others take
    longer for bf16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # no Linux: not known
        return False
    return not BF16_FLAGS.isdisjoint(flags)


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep what tensors free for the next ones, in place of returning it to the system page by page.

    Of a step on a CPU, 5% of the time are page faults of memory that the step before has returned. Other
    allocators are left as they are, and so is glibc where its variables `MALLOC_*_` are set.

    Args:
        keep: whether to keep it, or to return to glibc's defaults, as in processes that read images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    is_set = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if mallopt is not None and sys.platform == "linux" and not is_set:
        for parameter, kept, default in MALLOC_OPTIONS:
            mallopt(parameter, kept if keep else default)


def use_threads(threads: int | None) -> None:
    """Have torch use so many threads of the CPU; None leaves its choice.

    Raises:
        UserError: the number is not from 1 to `MAX_THREADS`.
    """
    if threads is None:
        return
    if not 1 <= threads <= MAX_THREADS:
        raise UserError(
            f"--threads is {threads}: use a number from 1 to {MAX_THREADS}, at best one for each of the "
            f"{available_cores()} cores."
        )
    torch.set_num_threads(threads)


def available_cores() -> int:
    """Return the CPU cores that this process may use, which a container or a job may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
