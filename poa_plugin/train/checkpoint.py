"""Checkpoints: folders of safetensors, JSON and checksums that are complete or absent.

How their folders are named and moved is in `rotation`, what makes one intact in `integrity`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poa_plugin.errors import UserError
from poa_plugin.files import flush, write_reason
from poa_plugin.train.integrity import (
    CHECKSUMS,
    MODEL,
    OPTIMIZER,
    STATE,
    NewerFormatError,
    UnreadableError,
    damage,
    read_state,
    write_checksums,
    write_state,
)
from poa_plugin.train.rotation import (
    clear_unfinished,
    latest,
    partial_folder,
    prune,
    publish,
    restore_replaced,
    steps,
)
from poa_plugin.weights import load_tensors, load_weights, save_tensors

__all__ = [
    "CHECKSUMS",
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
    "named_parameters",
    "save",
    "step_of",
    "steps",
]


class NotFiniteError(UserError):
    """Weights or moments are not finite, so no checkpoint is written."""


def save(
    root: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    keep_multiples_of: int = 0,
) -> Path:
    """Write `root/<step>/`, and remove older checkpoints that are no longer needed.

    The folder gets its name when all of it is on the disk, so that a kill or a failure at any moment
    leaves the earlier checkpoints as they were and no partial new one. An older one that cannot be
    removed is named on stderr, and stays.

    Args:
        root: the run's `ckpt` folder.
        model: the meta-architecture; its whole state dict is written.
        optimizer: whose groups carry the `names` of their parameters.
        state: JSON values, `step` (the next step to run) among them.
        keep: how many of the newest checkpoints to leave, this one among them; 0 or less leaves all.
        keep_multiples_of: checkpoints whose step is a multiple of this are left, too; 0: none.

    Raises:
        NotFiniteError: a weight or a moment is not finite, and named; nothing is written.
        UserError: the disk is full or cannot be written to.
    """
    step = int(state["step"])
    weights, moments = model.state_dict(), _optimizer_tensors(optimizer)
    if non_finite := not_finite_tensors({**weights, **moments}):
        raise NotFiniteError(_not_finite(root, step, non_finite))
    partial = partial_folder(root, step)
    with _writing(root, step):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(_owned(weights), partial / MODEL)
        save_tensors(_owned(moments), partial / OPTIMIZER)
        write_state(partial, state)
        write_checksums(partial)
        for file in (*partial.iterdir(), partial):
            flush(file)
        target = publish(root, step)
    try:
        prune(root, step, keep, keep_multiples_of)
    except (OSError, UnreadableError) as error:
        reason = write_reason(error) if isinstance(error, OSError) else str(error)
        print(
            f"\npoa: warning: a checkpoint under '{root}' that is no longer needed cannot be removed: "
            f"{reason}. The one of step {step} is intact, and the training continues.",
            file=sys.stderr,
        )
    return target


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder, which `latest` returned."""
    return int(folder.name.removeprefix(".").removesuffix(".removed"))


def is_imported(folder: Path) -> bool:
    """Tell whether a checkpoint was imported (`poa import`), and is no result of training here."""
    return bool(read_state(folder).get("imported"))


def weights_checksum(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, as recorded with them."""
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    return str(sums[MODEL]["sha256"])


def imported_format(folder: Path) -> str | None:
    """Return the format that a checkpoint was imported from, '' if it is not recorded; None if it was not."""
    state = read_state(folder)
    return str(state.get("format", "")) if state.get("imported") else None


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place and return its `state`.

    Nothing in a checkpoint can run: weights are safetensors, all else is JSON.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: the checkpoint is of another architecture, or cannot be read.
    """
    state = read_state(folder)
    load_weights(model, load_tensors(folder / MODEL), folder)
    moments = load_tensors(folder / OPTIMIZER)
    for name, parameter in named_parameters(optimizer):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in moments]
        for key in keys:
            optimizer.state[parameter][key] = moments[f"{name}/{key}"].to(parameter.device)
    return state


def not_finite_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold a value that is not finite."""
    floating = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
    # The extremes of a tensor are not finite if a value is not, and take no memory of its size.
    return [name for name, x in floating.items() if not all(map(torch.isfinite, torch.aminmax(x)))]


def _not_finite(root: Path, step: int, names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    last = steps(root)
    remaining = (
        f"the one of step {last[-1]} remains the newest" if last else "there is no earlier one"
    )
    return (
        f"The weights are not finite after {step} steps ('{names[0]}'{more}), so that no checkpoint is "
        f"written under '{root}'; {remaining}. Lower optim.base_lr or use train.precision=fp32, with "
        f"train.accept_changes=true."
    )


@contextmanager
def _writing(root: Path, step: int) -> Iterator[None]:
    """Remove an unfinished checkpoint when it cannot be written, and raise a sentence."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):  # a disk that still refuses: the next start restores the former one
            restore_replaced(root, step)
        last = steps(root)
        remaining = f"the one of step {last[-1]} is intact" if last else "there is no earlier one"
        raise UserError(
            f"The checkpoint '{step}' cannot be written under '{root}': "
            f"{write_reason(error)}; {remaining}. Fix that, and the same command resumes."
        ) from error


def _owned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    """Return an optimizer's parameters with the `names` that its groups carry."""
    groups = optimizer.param_groups
    return [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in named_parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }
