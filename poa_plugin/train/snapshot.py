"""Writing one checkpoint: what this rank writes, and the checkpoint's name once all ranks have written."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poa_plugin import ranks
from poa_plugin.errors import UserError
from poa_plugin.files import flush
from poa_plugin.train.integrity import UnreadableError, write_description
from poa_plugin.train.manifest import MODEL, OPTIMIZER
from poa_plugin.train.pieces import (
    FailedRankError,
    HeldTensors,
    collect_notes,
    copied,
    remove_notes,
    to_write,
    write_failure,
    write_note,
    write_pieces,
)
from poa_plugin.train.placement import held
from poa_plugin.train.rotation import partial_folder, prune, publish, steps
from poa_plugin.train.writing import agreement, reason_of


class NotFiniteError(UserError):
    """Weights or moments are not finite, so no checkpoint is written."""


@dataclass(frozen=True)
class Snapshot:
    """What this rank writes of a checkpoint, and where.

    Attributes:
        root: the run's `ckpt` folder.
        state: JSON values, `step` among them.
        parts: the tensors.
        rank, ranks: which this one is, and how many write.
    """

    root: Path
    state: dict[str, Any]
    parts: HeldTensors
    rank: int
    ranks: int

    @property
    def step(self) -> int:
        """The next step to run."""
        return int(self.state["step"])

    @property
    def folder(self) -> Path:
        """Where it is written before it gets its name."""
        return partial_folder(self.root, self.step)


def take_snapshot(
    root: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    in_own_memory: bool = False,
) -> Snapshot:
    """Return what this rank is to write, and make the folder for it; all ranks call this.

    Args:
        root, model, optimizer, state: see `checkpoint.save`.
        in_own_memory: copy the tensors, so that training may continue while they are written.

    Raises:
        NotFiniteError: a weight or a moment of some rank is not finite.
        UserError: the folder cannot be made.
    """
    step, (rank, world) = int(state["step"]), (ranks.rank(), ranks.world())
    tensors = {MODEL: model.state_dict(), OPTIMIZER: _optimizer_tensors(optimizer)}
    non_finite = not_finite_tensors({**tensors[MODEL], **tensors[OPTIMIZER]})
    if anywhere := [name for names in ranks.gathered_objects(non_finite) for name in names]:
        raise NotFiniteError(_not_finite(root, step, list(dict.fromkeys(anywhere))))
    with agreement(root, step):
        if rank == 0:
            partial = partial_folder(root, step)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    parts = to_write(tensors, rank, world)
    if in_own_memory:
        parts = copied(parts)
    return Snapshot(root, copy.deepcopy(state), parts, rank, world)


def write(snapshot: Snapshot) -> None:
    """Write this rank's pieces, and its note that they are complete; no rank waits for another here.

    Raises:
        OSError: the disk refuses; of several ranks, the note says so.
    """
    folder, rank, world = snapshot.folder, snapshot.rank, snapshot.ranks
    try:
        manifest = write_pieces(folder, snapshot.parts, snapshot.step, rank, world)
        write_note(folder, manifest, rank, world)
    except Exception as error:
        if world > 1:
            write_failure(folder, FailedRankError(ranks.name(), reason_of(error)), rank, world)
        raise


def finish(snapshot: Snapshot, keep: int, keep_multiples_of: int = 0) -> None:
    """Give a checkpoint its manifest and its name once all ranks have written, and remove older ones.

    Raises:
        FailedRankError: a rank could not write its pieces.
        OSError: the disk refuses.
    """
    root, folder, step = snapshot.root, snapshot.folder, snapshot.step
    manifest = collect_notes(folder, snapshot.ranks)
    write_description(folder, snapshot.state, manifest)
    remove_notes(folder, snapshot.ranks)
    flush(folder)
    publish(root, step)
    try:
        prune(root, step, keep, keep_multiples_of)
    except (OSError, UnreadableError) as error:
        print(
            f"\npoa: warning: a checkpoint under '{root}' that is no longer needed cannot be removed: "
            f"{reason_of(error)}. The one of step {step} is intact, and the training continues.",
            file=sys.stderr,
        )


def not_finite_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors of which this rank holds a value that is not finite."""
    local = {name: held(tensor).tensor for name, tensor in tensors.items()}
    floating = {name: x for name, x in local.items() if x.is_floating_point() and x.numel()}
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
