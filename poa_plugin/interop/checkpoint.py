"""A checkpoint under this package's names, whatever format it came in."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from poa_plugin.errors import UserError
from poa_plugin.files import read_json
from poa_plugin.interop.families import Family
from poa_plugin.interop.files import checkpoint_files
from poa_plugin.interop.formats import Format, detect, reorder_merged
from poa_plugin.interop.names import (
    BRANCH_PREFIXES,
    BRANCHES,
    LOSSES,
    full_names,
    inner_name,
    keys_left_out,
    our_name,
    quoted,
    refuse_others,
)
from poa_plugin.interop.shards import join


class Entry(NamedTuple):
    """A tensor, and the name that the file gives it."""

    key: str
    tensor: Tensor


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        file: where it lies.
        format, family: what it was recognized as.
        entries: by our names: `student.backbone.cls_token`, `teacher.dino_head.0.mlp.0.weight`,
            `cls_targets.center_0`. Names that are unknown here are among them.
        student_order: our names of the student's parameters, without the branch, in the file's order; what was
            left out is among them.
        optimizer, iteration: of a training checkpoint: its optimizer's state dict, and the last iteration that
            it finished.
        metadata: configuration that the file tells beside its parameters, by dotted keys.
        is_flat: whether it was joined of ranks' files, whose parameters and moments have one dimension.
        messages: sentences for the user about what is missing, and what was left out.
    """

    file: Path
    format: Format
    family: Family
    entries: dict[str, Entry]
    student_order: list[str]
    optimizer: Mapping[str, Any] | None
    iteration: int | None
    metadata: dict[str, Any]
    is_flat: bool
    messages: list[str]

    @property
    def branches(self) -> list[str]:
        """`student`, `teacher`, or both."""
        return [branch for branch in BRANCHES if self.holds(f"{branch}.")]

    @property
    def centers(self) -> dict[str, Entry]:
        """The losses' running centers."""
        kinds = tuple(f"{kind}.center_" for kind in LOSSES.values())
        return {name: entry for name, entry in self.entries.items() if name.startswith(kinds)}

    def holds(self, prefix: str) -> bool:
        """Tell whether there are entries under a prefix."""
        return any(key.startswith(prefix) for key in self.entries)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under a prefix, such as `teacher.backbone.`, without it."""
        return {
            key.removeprefix(prefix): entry.tensor
            for key, entry in self.entries.items()
            if key.startswith(prefix)
        }


def read_checkpoint(
    path: str | Path, format_name: str = "auto", drop: Sequence[str] = ()
) -> Checkpoint:
    """Read a checkpoint of the published POA code, of DINOv2, of the original Swin or of timm.

    Only tensors and plain values are read from it: nothing that a pickle names is run. Names are
    translated, shapes are not yet compared with a network (`import_checkpoint` does).

    Args:
        path: a torch file or a safetensors file; `<name>.rank_<n>.pth` stands for the files of all ranks, and a
            published run's folder for its newest checkpoint. A checkpoint's folder of this package stands for
            its model, and so does each piece of it.
        format_name: `poa`, `dinov2`, `swin`, `timm`, or `auto` to tell it from the names.
        drop: leave out what these names, or names that begin with them and a dot, stand for, such
            as `head` for timm's classifier.

    Raises:
        UserError: the file cannot be read, one of its ranks' is missing, or it holds no network of a known
            kind.
    """
    files = checkpoint_files(Path(path))
    contents, is_flat = join(files)
    tensors, unused = _tensors(contents, files[0])
    names = full_names(tensors)
    branched = [name for name in names.values() if name.startswith(BRANCH_PREFIXES)]
    format_, family = detect([inner_name(name) for name in branched], files[0], format_name)
    refuse_others(names, family, files[0])
    ours = {key: our_name(name, format_, family) for key, name in names.items()}
    left_out = keys_left_out(names, drop, files[0])
    entries = _entries(tensors, {k: ours[k] for k in ours if k not in left_out}, files[0])
    buffers = _take_buffers(entries, family)
    parameters = [name for name in ours.values() if name not in buffers]
    checkpoint = Checkpoint(
        file=files[0],
        format=format_,
        family=family,
        entries=entries,
        student_order=[inner_name(name) for name in parameters if name.startswith("student.")],
        optimizer=_optimizer(contents),
        iteration=_iteration(contents),
        metadata=family.metadata(
            {inner_name(inner_name(name)): tensor for name, tensor in buffers.items()},
            _description(files[0]),
        ),
        is_flat=is_flat,
        messages=[f"The files of {len(files)} ranks were joined."] if len(files) > 1 else [],
    )
    _reorder(checkpoint, buffers)
    checkpoint.messages += [
        f"'{files[0]}' is of {format_.title}: {' and '.join(checkpoint.branches)}.",
        _listed("Left out", left_out),
        _listed(f"Left out, as they are recomputed here, {len(buffers)} tables", [*buffers][:1]),
        _listed("Not used", unused),
    ]
    return checkpoint


def _tensors(contents: Mapping[str, Any], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a file's state dicts by its names, and the names of what is not used."""
    sections = {"": contents}
    used = ["iteration"] if _optimizer(contents) is None else ["iteration", "optimizer"]
    if not any(map(_is_tensor, contents.values())):
        nested = ("model", "state_dict", *BRANCHES)
        networks = [name for name in nested if isinstance(contents.get(name), Mapping)]
        if not networks or {"model", "state_dict"} <= set(networks):
            raise UserError(
                f"The file '{file}' does not hold one network: its entries are {quoted(list(contents)[:8])}."
            )
        used += networks
        sections = {f"{n}." if n in BRANCHES else "": contents[n] for n in networks}
    unused = [name for name, x in contents.items() if name not in used and not _is_tensor(x)]
    tensors: dict[str, Tensor] = {}
    for prefix, section in sections.items():
        for key, value in section.items():
            if _is_tensor(value):
                tensors[f"{prefix}{key}"] = value
            elif section is not contents:
                unused.append(f"{prefix}{key}")
    return tensors, unused


def _is_tensor(value: Any) -> bool:
    """Tell whether an entry is a tensor, and not one rank's part of one."""
    return type(value) in (Tensor, nn.Parameter)


def _optimizer(contents: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the state dict of a training checkpoint's optimizer; None if it holds no moments."""
    optimizer = contents.get("optimizer")
    return optimizer if isinstance(optimizer, Mapping) and optimizer.get("state") else None


def _entries(
    tensors: Mapping[str, Tensor], ours: Mapping[str, str], file: Path
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key, name in ours.items():
        if name in entries:
            raise UserError(
                f"'{entries[name].key}' and '{key}' in '{file}' are the same parameter, '{name}'."
            )
        entries[name] = Entry(key, tensors[key])
    return entries


def _take_buffers(entries: dict[str, Entry], family: Family) -> dict[str, Tensor]:
    """Take what is no parameter out of the entries."""
    pattern = rf"(student|teacher)\.backbone\.({family.buffers})"
    names = [name for name in entries if re.fullmatch(pattern, name)]
    return {name: entries.pop(name).tensor for name in names}


def _reorder(checkpoint: Checkpoint, buffers: Mapping[str, Tensor]) -> None:
    """Bring channels into our order; flat tensors whose rows matter get them first."""
    entries = checkpoint.entries
    for name, (key, tensor) in entries.items():
        rows = -1
        if checkpoint.is_flat and name.endswith(".relative_position_bias_table"):
            index = buffers.get(name.replace("bias_table", "index"), torch.empty(0))
            window = math.isqrt(math.isqrt(index.numel()))
            rows = (2 * window - 1) ** 2
        elif checkpoint.is_flat and name.endswith(".downsample.reduction.weight"):
            norm = entries.get(name.replace("reduction", "norm"))
            rows = tensor.numel() // norm.tensor.numel() if norm else -1
        if rows > 0 and tensor.numel() % rows == 0:
            tensor = tensor.reshape(rows, -1)
        if checkpoint.format.name == "poa":
            tensor = reorder_merged(name, tensor)
        entries[name] = Entry(key, tensor)


def _iteration(contents: Mapping[str, Any]) -> int | None:
    iteration = contents.get("iteration")
    return int(iteration) if isinstance(iteration, (int, np.integer)) else None


def _description(file: Path) -> Mapping[str, Any]:
    """Return what a `config.json` beside a safetensors file says; empty where there is none."""
    beside = file.with_name("config.json")
    if file.suffix != ".safetensors" or not beside.is_file():
        return {}
    description = read_json(beside)
    return description if isinstance(description, Mapping) else {}


def _listed(what: str, names: Collection[str]) -> str:
    """Return a sentence that lists names; empty without names."""
    return f"{what}: {quoted(names)}." if names else ""
