"""Finding and reading others' files: tensors and plain values only, so that no code can run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

from poa_plugin.errors import UserError
from poa_plugin.files import reading
from poa_plugin.train.checkpoint import MANIFEST, MODEL, STATE, model_tensors
from poa_plugin.train.manifest import is_model
from poa_plugin.weights import load_tensors

RANK = re.compile(r"(?P<name>.+)\.rank_(?P<rank>\d+)\.pth")
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What a NumPy number is made of in a pickle, by NumPy 1 and 2. Training checkpoints of DINOv2's kind
hold such numbers: the learning rates in the optimizer's groups come from NumPy schedules."""


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint: one, or those of all ranks, rank 0 first.

    Args:
        path: a file; `<name>.rank_<n>.pth` of any rank stands for the files of all; a published run's
            folder stands for its newest checkpoint, which `last_checkpoint` names. A checkpoint's folder of
            this package stands for its model, and so does each piece of it, which `read_file` joins.

    Raises:
        UserError: there is no such file, or the file of a lower rank than the highest is missing.
    """
    with reading(path):
        file = _newest(path) if path.is_dir() else path
        file.stat()
        match = RANK.fullmatch(file.name)
        siblings = list(file.parent.iterdir()) if match else []
    if not file.is_file():
        raise UserError(f"'{file}' is no file, but a folder, a pipe or a device.")
    if match is None:
        return [file]
    ranks = {
        int(other["rank"]): sibling
        for sibling in siblings
        if (other := RANK.fullmatch(sibling.name)) and other["name"] == match["name"]
    }
    check_ranks(file, set(ranks), max(ranks) + 1)
    return [ranks[rank] for rank in sorted(ranks)]


def check_ranks(file: Path, ranks: set[int], world_size: int) -> None:
    """Raise a `UserError` that names the files that are missing of a checkpoint of `world_size` ranks."""
    name = match["name"] if (match := RANK.fullmatch(file.name)) else file.stem
    missing = [f"'{name}.rank_{rank}.pth'" for rank in range(world_size) if rank not in ranks]
    if missing:
        raise UserError(
            f"The checkpoint of '{file}' is divided among {world_size} ranks, and of their files "
            f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''} are missing beside it."
        )


def read_file(file: Path, stand_ins: Sequence[Any] = ()) -> dict[str, Any]:
    """Read a safetensors file, or a torch file restricted to tensors and plain values.

    Args:
        file: the file.
        stand_ins: pairs of a class and the name in the file that it is used for (see `shards`).

    Raises:
        UserError: it cannot be read, is damaged, no dictionary, or holds objects that only running code
            from the file could make.
    """
    if file.suffix == ".safetensors":
        is_piece = is_model(file.name) and (file.parent / MANIFEST).is_file()
        return dict(model_tensors(file.parent) if is_piece else load_tensors(file))
    with reading(file):
        contents = _load(file, stand_ins)
    if not isinstance(contents, Mapping):
        kind = type(contents).__name__
        raise UserError(f"The file '{file}' is no checkpoint: it holds a {kind}, no dictionary.")
    return {str(key): value for key, value in contents.items()}


def _newest(run: Path) -> Path:
    """Return the file that the `last_checkpoint` of a published run's folder, one for each rank, names.

    Of a checkpoint's folder of this package, it is the first piece of the model.
    """
    if (run / STATE).is_file():
        return min(run.glob("model*.safetensors"), default=run / MODEL)
    names = sorted(
        Path(tag.read_text(encoding="utf-8", errors="replace").strip()).name
        for tag in run.glob("last_checkpoint*")
    )
    checkpoints = sorted({RANK.sub(r"\g<name>", name) for name in names})
    if len(checkpoints) != 1:
        raise UserError(
            f"The folder '{run}' has files last_checkpoint that name {' and '.join(checkpoints) or 'none'}, "
            f"where one checkpoint is needed: give the checkpoint's file."
        )
    return run / names[0]


def _load(file: Path, stand_ins: Sequence[Any]) -> Any:
    try:
        with safe_globals([*NUMPY_NUMBERS, *stand_ins]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that is no checkpoint can fail anywhere in the reader
        unsafe = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error))
        if unsafe:
            reason = (
                f"holds objects ('{unsafe[1]}') that only code named in the file could make; none of it "
                f"was run: save its state dict anew, with tensors and numbers only"
            )
        else:
            reason = "is no checkpoint that torch can read: it is damaged, or of another kind"
        raise UserError(f"The file '{file}' {reason}.") from error
