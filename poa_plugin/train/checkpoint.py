"""Checkpoints: folders of safetensors, JSON and checksums that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin.errors import UserError
from poa_plugin.files import REASONS, flush
from poa_plugin.weights import load_tensors, load_weights, save_tensors

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CHECKSUMS = "checksums.json"


def save(
    root: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    keep_multiples_of: int = 0,
) -> Path:
    """Write `root/<step>/`, and remove older checkpoints that need not be kept.

    The folder gets its name when all of it is on the disk, so that a kill or a failure at any moment
    leaves the earlier checkpoints as they were and no half of a new one.

    Args:
        root: the run's `ckpt` folder.
        model: the meta-architecture; its whole state dict is written.
        optimizer: whose groups carry the `names` of their parameters.
        state: JSON values, `step` (the next step to run) among them.
        keep: how many of the newest checkpoints to leave; 0 leaves all.
        keep_multiples_of: checkpoints whose step is a multiple of this are left, too; 0: none.

    Raises:
        UserError: the disk is full or cannot be written to.
    """
    target = root / str(state["step"])
    partial = root / f".{target.name}.partial"
    with _writing(root, partial):
        _remove(partial)
        partial.mkdir(parents=True)
        save_tensors(_owned(model.state_dict()), partial / MODEL)
        save_tensors(_optimizer_tensors(optimizer), partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        sums = {name: _checksum(partial / name) for name in (MODEL, OPTIMIZER, STATE)}
        (partial / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")
        for file in (*partial.iterdir(), partial):
            flush(file)
        _remove(target)
        partial.rename(target)
        flush(root)
    for old in steps(root)[: -keep if keep else 0]:
        if not (keep_multiples_of and old % keep_multiples_of == 0):
            _remove(root / str(old))
    return target


def steps(root: Path) -> list[int]:
    """Return the steps of the checkpoints under a run's `ckpt` folder, in order."""
    if not root.is_dir():
        return []
    return sorted(int(folder.name) for folder in root.iterdir() if folder.name.isdigit())


def latest(root: Path, fall_back: bool = False) -> Path | None:
    """Return the newest checkpoint's folder, or None where there is none yet.

    Args:
        root: the run's `ckpt` folder.
        fall_back: pass over damaged checkpoints, with a warning for each on stderr.

    Raises:
        UserError: the newest checkpoint is damaged, or with `fall_back` every one; what is wrong is
            named, and the newest one that is whole.
    """
    problems: list[str] = []
    for step in reversed(steps(root)):
        folder = root / str(step)
        reason = damage(folder)
        if reason is None and (fall_back or not problems):
            for problem in problems:
                print(f"WARNING: {problem}. Going back to '{folder}'.", file=sys.stderr)
            return folder
        if reason is None:
            raise UserError(
                f"{problems[0]}. The newest whole one is '{folder}': to go on from there, set "
                f"train.damaged_checkpoint=previous, or remove the damaged folder."
            )
        problems.append(f"The checkpoint '{folder}' is damaged: {reason}")
    if problems:
        raise UserError(f"{problems[0]}. No checkpoint under '{root}' is whole.")
    return None


def is_imported(folder: Path) -> bool:
    """Tell whether a checkpoint was imported (`poa import`), and is no result of training here."""
    return bool(_state(folder).get("imported"))


def weights_checksum(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, as it was written down with them."""
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    return str(sums[MODEL]["sha256"])


def imported_format(folder: Path) -> str | None:
    """Return the format that a checkpoint was imported from, '' if it is not recorded; None if it was not."""
    state = _state(folder)
    return str(state.get("format", "")) if state.get("imported") else None


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None if each is as it was written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name in (MODEL, OPTIMIZER, STATE):
            if not (folder / name).is_file():
                return f"its file {name} is missing"
            size, expected = (folder / name).stat().st_size, sums[name]["bytes"]
            if size != expected:
                return f"its file {name} has {size} bytes, not {expected}"
            if _checksum(folder / name) != sums[name]:
                return f"its file {name} is not the one that was written (SHA-256)"
        step = _state(folder)["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {CHECKSUMS} cannot be used ({error})"
    return None if folder.name == str(step) else f"it was written for step {step}"


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place and return its `state`.

    Nothing in a checkpoint can run: weights are safetensors, all else is JSON.

    Raises:
        UserError: the checkpoint is of another architecture, or cannot be read.
    """
    load_weights(model, load_tensors(folder / MODEL), folder)
    moments = load_tensors(folder / OPTIMIZER)
    for name, parameter in named_parameters(optimizer):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in moments]
        for key in keys:
            optimizer.state[parameter][key] = moments[f"{name}/{key}"].to(parameter.device)
    return _state(folder)


def clear_unfinished(root: Path) -> None:
    """Remove what a kill left of a checkpoint that was being written or removed."""
    for folder in (*root.glob(".*.partial"), *root.glob(".*.removed")):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(root: Path, partial: Path) -> Iterator[None]:
    """Clear an unfinished checkpoint away when it cannot be written, and say so in a sentence."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = steps(root)
        kept = f"the one of step {last[-1]} is whole" if last else "there is no earlier one"
        raise UserError(
            f"The checkpoint '{partial.name.split('.')[1]}' cannot be written under '{root}': "
            f"{REASONS.get(error.errno or 0, str(error))}; {kept}. Mend that, and the same command goes on."
        ) from error


def _remove(folder: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that no half of it can be taken for one."""
    if folder.name.isdigit() and folder.exists():
        unnamed = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(unnamed, ignore_errors=True)
        folder = folder.rename(unnamed)
    shutil.rmtree(folder, ignore_errors=True)


def _checksum(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _state(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / STATE).read_text(encoding="utf-8")))


def _owned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    """Return an optimizer's parameters with the `names` that its groups carry."""
    groups = optimizer.param_groups
    return [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _owned(
        {
            f"{name}/{key}": value
            for name, parameter in named_parameters(optimizer)
            for key, value in optimizer.state.get(parameter, {}).items()
        }
    )
