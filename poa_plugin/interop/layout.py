"""How a file is laid out: which of its tensors belong to the student, the teacher, or the losses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from poa_plugin.errors import UserError
from poa_plugin.interop.read import WHOLE

BRANCHES = ("student", "teacher")
PARTS = ("backbone", "dino_head", "ibot_head")
LOSSES = ("dino_loss.", "ibot_patch_loss.")
NETWORKS = ("model", "state_dict", *BRANCHES)
TRAINING = ("optimizer", "iteration")
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


class Entry(NamedTuple):
    """A tensor, and the name that the file gives it."""

    key: str
    tensor: Tensor


@dataclass
class Layout:
    """A file's tensors by branch, in the file's order.

    Attributes:
        branches: `student`, `teacher`, or both, each with `backbone.<name>` and perhaps
            `dino_head.<name>` as the file names them; a bare state dict counts as a teacher.
        bare: whether it was one.
        losses: `dino_loss.<name>` and `ibot_patch_loss.<name>`.
        loose: tensors beside the branches that belong to neither.
        optimizer: the optimizer's state dict of a training checkpoint.
        iteration: its last finished iteration.
        ignored: entries that are no tensors and of no use here, such as an epoch.
    """

    branches: dict[str, dict[str, Entry]] = field(default_factory=dict)
    bare: bool = False
    losses: dict[str, Entry] = field(default_factory=dict)
    loose: dict[str, Entry] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = None
    iteration: int | None = None
    ignored: list[str] = field(default_factory=list)


def lay_out(contents: Mapping[str, Any], file: Path) -> Layout:
    """Sort what a file holds into branches.

    Read are a bare state dict, and dictionaries that hold one under `model`, `state_dict`,
    `student` or `teacher`; prefixes that wrappers of modules leave in names are taken off.

    Raises:
        UserError: there is no network in the file, more than one under several names, or one rank's
            flat parameters.
    """
    layout = Layout()
    tensors = _networks(contents, layout, file)
    for key, tensor in tensors.items():
        if "flat_param" in key or type(tensor) not in (Tensor, nn.Parameter):
            raise UserError(
                f"The file '{file}' holds one rank's flat or sharded parameters ('{key}'), from "
                f"which names cannot be told: {WHOLE}."
            )
    bare: dict[str, Entry] = {}
    for key, tensor in tensors.items():
        name = _WRAPPERS.sub("", key)
        branch, _, inner = name.partition(".")
        if branch in BRANCHES:
            _put(layout.branches.setdefault(branch, {}), inner, Entry(key, tensor), file)
        elif name.startswith(LOSSES):
            _put(layout.losses, name, Entry(key, tensor), file)
        else:
            _put(bare, name, Entry(key, tensor), file)
    if layout.branches:
        layout.loose = bare
    else:
        layout.branches, layout.bare = {"teacher": bare}, True
    layout.branches = {name: _with_parts(branch) for name, branch in layout.branches.items()}
    return layout


def _networks(contents: Mapping[str, Any], layout: Layout, file: Path) -> dict[str, Tensor]:
    """Return the tensors of the state dicts in a file, and note what stands beside them."""
    if any(isinstance(value, Tensor) for value in contents.values()):
        layout.ignored = [key for key, value in contents.items() if not isinstance(value, Tensor)]
        _refuse_tensors(contents, layout.ignored, file)
        return {key: value for key, value in contents.items() if isinstance(value, Tensor)}
    found = [key for key in NETWORKS if _has_tensors([contents.get(key)])]
    if not found:
        shown = ", ".join(f"'{key}'" for key in list(contents)[:8]) or "none"
        raise UserError(f"The file '{file}' holds no network: its entries are {shown}.")
    if {"model", "state_dict"} <= set(found):
        raise UserError(f"The file '{file}' holds two networks, 'model' and 'state_dict'.")
    tensors: dict[str, Tensor] = {}
    for name in found:
        prefix = f"{name}." if name in BRANCHES else ""
        for key, value in contents[name].items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{key}"] = value
            else:
                layout.ignored.append(f"{name}.{key}")
    optimizer, iteration = contents.get("optimizer"), contents.get("iteration")
    if isinstance(optimizer, Mapping) and optimizer.get("state"):
        layout.optimizer = optimizer
    elif optimizer is not None:
        layout.ignored.append("optimizer")
    layout.iteration = int(iteration) if isinstance(iteration, (int, np.integer)) else None
    beside = [key for key in contents if key not in (*found, *TRAINING)]
    _refuse_tensors(contents, beside, file)
    layout.ignored += beside
    return tensors


def _refuse_tensors(contents: Mapping[str, Any], names: Iterable[str], file: Path) -> None:
    holding = [name for name in names if _has_tensors([contents[name]])]
    if holding:
        shown = ", ".join(f"'{name}'" for name in holding)
        raise UserError(
            f"The file '{file}' holds tensors that are of no known use here, under {shown}: save the "
            f"state dict that is meant by itself."
        )


def _has_tensors(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            return True
        if isinstance(value, Mapping) and _has_tensors(value.values()):
            return True
        if isinstance(value, (list, tuple)) and _has_tensors(value):
            return True
    return False


def _put(tensors: dict[str, Entry], name: str, entry: Entry, file: Path) -> None:
    if name in tensors:
        raise UserError(
            f"The file '{file}' holds '{name}' twice: as '{tensors[name].key}' and '{entry.key}'."
        )
    tensors[name] = entry


def _with_parts(branch: dict[str, Entry]) -> dict[str, Entry]:
    """Return a branch whose names say their part; a branch without any is a backbone by itself."""
    if any(name.startswith("backbone.") for name in branch):
        return branch
    heads = tuple(f"{part}." for part in PARTS[1:])
    return {
        name if name.startswith(heads) else f"backbone.{name}": entry
        for name, entry in branch.items()
    }
