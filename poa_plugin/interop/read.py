"""Reading files that somebody else wrote: tensors and plain values only, so that no pickle can run code."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

from poa_plugin.errors import UserError
from poa_plugin.weights import load_tensors

_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What a NumPy number is made of in a pickle, by NumPy 1 and 2. Training checkpoints of DINOv2's kind
hold such numbers: the learning rates in the optimizer's groups come from NumPy schedules."""


def read_file(file: Path, stand_ins: Sequence[Any] = ()) -> dict[str, Any]:
    """Read a safetensors file, or a torch file restricted to tensors and plain values.

    Args:
        file: the file.
        stand_ins: pairs of a class and the name in the file that it is used for (see `shards`).

    Raises:
        UserError: it is not there, damaged, no dictionary, or holds objects that only running code
            from the file could make.
    """
    check_file(file)
    if file.suffix == ".safetensors":
        return dict(load_tensors(file))
    loaded = _load(file, stand_ins)
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise UserError(f"The file '{file}' is no checkpoint: it holds a {kind}, no dictionary.")
    return {str(key): value for key, value in loaded.items()}


def check_file(file: Path) -> None:
    """Raise a `UserError` if a file is not there, cannot be opened, or is a folder, a pipe or empty."""
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"There is no file '{file}'.") from error
    except OSError as error:
        raise UserError(f"The file '{file}' cannot be read: {error.strerror}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"'{file}' is a folder: give the checkpoint's file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{file}' is a pipe or a device: save the checkpoint as a file first.")
    if not os.access(file, os.R_OK):
        raise UserError(f"The file '{file}' cannot be read: you are not permitted to.")
    if status.st_size == 0:
        raise UserError(f"The file '{file}' is empty.")


def _load(file: Path, stand_ins: Sequence[Any]) -> Any:
    try:
        with safe_globals([*NUMPY_NUMBERS, *stand_ins]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint can fail anywhere in the reader
        raise UserError(_why(file, str(error))) from error


def _why(file: Path, message: str) -> str:
    unsafe = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", message)
    name = unsafe.group(1) if unsafe else ""
    if name.startswith("torch.distributed"):
        return (
            f"The file '{file}' holds one rank's shard of a training state ({name}), from which "
            f"names cannot be told: {WHOLE}."
        )
    if name:
        return (
            f"The file '{file}' holds objects ('{name}') that only code named in the file could "
            f"make; none of it was run: save its state dict anew, with tensors and numbers only."
        )
    reason = " ".join(message.rpartition("WeightsUnpickler error:")[2].split())
    reason = reason.partition(". ")[0].partition(" Check the documentation")[0].rstrip(".")
    if re.fullmatch(r"(Unsupported operand )?\d*", reason):  # a byte that is no part of a pickle
        reason = "it is damaged, or of another kind"
    return f"The file '{file}' is no checkpoint that torch can read: {reason}."


WHOLE = (
    "import the run's folder with the files of all ranks (<name>.rank_0.pth, ...), or the whole weights "
    "that the same run wrote for evaluation (eval/<iteration>/teacher_checkpoint.pth)"
)
"""The end of a sentence about sharded checkpoints."""
