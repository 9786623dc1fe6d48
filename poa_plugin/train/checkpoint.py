"""Checkpoints: folders of safetensors and JSON, written beside their place and then moved into it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from poa_plugin.weights import load_tensors, load_weights

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep: int
) -> Path:
    """Write `root/<step>/` and remove all but the last `keep` checkpoints.

    Args:
        root: the run's `ckpt` folder.
        model: the meta-architecture; its whole state dict is written.
        optimizer: whose groups carry the `names` of their parameters.
        state: JSON values, `step` (the next step to run) among them.
        keep: how many checkpoints to leave; 0 leaves all.
    """
    target = root / str(state["step"])
    partial = root / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_owned(model.state_dict()), partial / MODEL)
    save_file(_optimizer_tensors(optimizer), partial / OPTIMIZER)
    (partial / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    for file in partial.iterdir():
        _flush(file)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _flush(root)
    for old in steps(root)[: -keep if keep else 0]:
        shutil.rmtree(root / str(old))
    return target


def steps(root: Path) -> list[int]:
    """Return the steps of the whole checkpoints under a run's `ckpt` folder, in order."""
    if not root.is_dir():
        return []
    return sorted(int(folder.name) for folder in root.iterdir() if folder.name.isdigit())


def latest(root: Path) -> Path | None:
    """Return the newest checkpoint's folder, or None."""
    found = steps(root)
    return root / str(found[-1]) if found else None


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place and return its `state`.

    Raises:
        UserError: the checkpoint is of another architecture, or cannot be read.
    """
    load_weights(model, load_tensors(folder / MODEL), folder)
    moments = load_tensors(folder / OPTIMIZER)
    for name, parameter in _named_parameters(optimizer):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in moments]
        for key in keys:
            value = moments[f"{name}/{key}"]
            on = "cpu" if key == "step" else parameter.device
            optimizer.state[parameter][key] = value.to(on)
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def _owned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def _named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    groups = optimizer.param_groups
    return [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _owned(
        {
            f"{name}/{key}": value
            for name, parameter in _named_parameters(optimizer)
            for key, value in optimizer.state.get(parameter, {}).items()
        }
    )


def _flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's entries, to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
