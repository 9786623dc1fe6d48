"""Checkpoints: folders of safetensors, JSON and checksums that are complete or absent.

Each rank writes its pieces (`snapshot`, `pieces`), and the first one the manifest (`manifest`). How the
folders are named and moved is in `rotation`, what makes one intact in `integrity`, how tensors are read in
`stored`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poa_plugin import ranks
from poa_plugin.files import reading
from poa_plugin.train.integrity import (
    CHECKSUMS,
    STATE,
    NewerFormatError,
    UnreadableError,
    damage,
    read_manifest,
    read_state,
)
from poa_plugin.train.manifest import MANIFEST, MODEL, OPTIMIZER
from poa_plugin.train.rotation import clear_unfinished, latest, steps
from poa_plugin.train.snapshot import (
    NotFiniteError,
    finish,
    named_parameters,
    take_snapshot,
    write,
)
from poa_plugin.train.stored import open_tensors
from poa_plugin.train.writing import agreement
from poa_plugin.weights import check_shapes, load_tensors

__all__ = [
    "CHECKSUMS",
    "MANIFEST",
    "MODEL",
    "OPTIMIZER",
    "STATE",
    "NewerFormatError",
    "NotFiniteError",
    "UnreadableError",
    "clear_unfinished",
    "damage",
    "is_imported",
    "latest",
    "load",
    "load_tensors",
    "model_tensors",
    "named_parameters",
    "open_tensors",
    "save",
    "step_of",
    "steps",
]


def save(
    root: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    keep_multiples_of: int = 0,
) -> Path:
    """Write `root/<step>/`, and remove older checkpoints that are no longer needed.

    All ranks call this at the same step. The folder gets its name when all of it is on the disk, so that a kill
    or a failure at any moment leaves the earlier checkpoints as they were and no partial new one. An older one
    that cannot be removed is named on stderr, and stays.

    Args:
        root: the run's `ckpt` folder.
        model: the meta-architecture; its whole state dict is written.
        optimizer: whose groups carry the `names` of their parameters.
        state: JSON values, `step` (the next step to run) among them.
        keep: how many of the newest checkpoints to leave, this one among them; 0 or less leaves all.
        keep_multiples_of: checkpoints whose step is a multiple of this are left, too; 0: none.

    Raises:
        NotFiniteError: a weight or a moment is not finite, and named; nothing is written.
        UserError: the disk of a rank is full or cannot be written to. All ranks raise.
    """
    snapshot = take_snapshot(root, model, optimizer, state)
    with agreement(root, snapshot.step):
        write(snapshot)
    with agreement(root, snapshot.step):
        if ranks.is_first():
            finish(snapshot, keep, keep_multiples_of)
    return root / str(snapshot.step)


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder, which `latest` returned."""
    return int(folder.name.removeprefix(".").removesuffix(".removed"))


def is_imported(folder: Path) -> bool:
    """Tell whether a checkpoint was imported (`poa import`), and is no result of training here."""
    return bool(read_state(folder).get("imported"))


def weights_checksum(folder: Path) -> str:
    """Return what identifies a checkpoint's weights; see `Manifest.weights_checksum`."""
    return read_manifest(folder).weights_checksum()


def imported_format(folder: Path) -> str | None:
    """Return the format that a checkpoint was imported from, '' if it is not recorded; None if it was not."""
    state = read_state(folder)
    return str(state.get("format", "")) if state.get("imported") else None


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place and return its `state`.

    Of tensors that are sharded, a rank reads its own rows, however many ranks have written them. Nothing in a
    checkpoint can run: weights are safetensors, all else is JSON.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: the checkpoint is of another architecture, or cannot be read.
    """
    with reading(folder):
        state = read_state(folder)
    with open_tensors(folder, MODEL) as stored:
        check_shapes(model, stored.shapes, folder)
        expected = model.state_dict().items()
        model.load_state_dict({name: stored.read_like(name, tensor) for name, tensor in expected})
    with open_tensors(folder, OPTIMIZER) as stored:
        for name, parameter in named_parameters(optimizer):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (entry := f"{name}/{key}") in stored.shapes:
                    whole = key == "step"
                    value = stored.read(entry) if whole else stored.read_like(entry, parameter)
                    optimizer.state[parameter][key] = value.to(parameter.device)
    return state


def model_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return a checkpoint's weights whose names begin with a prefix, without it.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    with open_tensors(folder, MODEL) as stored:
        names = [name for name in stored.shapes if name.startswith(prefix)]
        return {name.removeprefix(prefix): stored.read(name) for name in names}
