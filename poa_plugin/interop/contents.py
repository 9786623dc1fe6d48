"""A checkpoint under this package's names, whatever format it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.interop.detect import detect
from poa_plugin.interop.families import Family
from poa_plugin.interop.formats import Format
from poa_plugin.interop.layout import PARTS, Entry, Layout, lay_out
from poa_plugin.interop.shards import join, rank_files
from poa_plugin.interop.timm import sidecar
from poa_plugin.interop.unflatten import unflatten


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        file: where it lies.
        format, family: what it was recognized as.
        branches: `student`, `teacher` or both: entries under our names (`backbone.cls_token`,
            `dino_head.0.mlp.0.weight`), each with the file's own name. Names that are unknown here
            are among them, under the file's.
        centers: running centers of the losses under our names, `cls_targets.center_0` and the like.
        loose: tensors that belong to no branch.
        optimizer, iteration: of a training checkpoint: its optimizer's state dict, and the last
            iteration that it finished.
        student_order: our names of the student's parameters in the file's order; of those that are
            left out, the file's.
        told: configuration that the file tells beside its parameters, by dotted keys.
        lines: sentences for the user about what is missing, and what was left out.
        flat: whether it was joined of ranks' files, whose moments have one dimension.
    """

    file: Path
    format: Format
    family: Family
    branches: dict[str, dict[str, Entry]]
    centers: dict[str, Entry]
    loose: dict[str, Entry]
    optimizer: Mapping[str, Any] | None
    iteration: int | None
    student_order: list[str]
    told: dict[str, Any]
    lines: list[str]
    flat: bool = False

    def tensors(self, branch: str, part: str = "") -> dict[str, Tensor]:
        """Return a branch's tensors by our names; of one part (`backbone`, `dino_head`) without it."""
        prefix = f"{part}." if part else ""
        return {
            key.removeprefix(prefix): entry.tensor
            for key, entry in self.branches[branch].items()
            if key.startswith(prefix)
        }


def read_checkpoint(
    file: str | Path, format_name: str = "auto", drop: Sequence[str] = ()
) -> Checkpoint:
    """Read a checkpoint of the published POA code, of DINOv2, of the original Swin or of timm.

    Only tensors and plain values are read from it: nothing that a pickle names is run. Names are
    translated, shapes are not yet compared with a network (`import_checkpoint` does).

    Args:
        file: a torch file or a safetensors file; `<name>.rank_<n>.pth` stands for the files of all ranks.
        format_name: `poa`, `dinov2`, `swin`, `timm`, or `auto` to tell it from the names.
        drop: leave out what these names, or names that begin with them and a dot, stand for, such
            as `head` for timm's classifier.

    Raises:
        UserError: the file cannot be read, one of its ranks' is missing, or it holds no network of a known
            kind.
    """
    files = rank_files(Path(file))
    file = files[0]
    contents, flat = join(files)
    layout = lay_out(contents, file)
    names = list(dict.fromkeys(name for branch in layout.branches.values() for name in branch))
    fmt, family = detect(names, file, format_name)
    lines = [f"'{file}' is of {fmt.title}: {_holds(layout)}."]
    if len(files) > 1:
        lines.append(f"It was joined of the files of {len(files)} ranks.")
    order = [_our_key(fmt, family, name) for name in layout.branches.get("student", {})]
    lines += _drop(layout, drop, family, file)
    description = sidecar(file)
    told: dict[str, Any] = {}
    branches = {}
    for name, entries in layout.branches.items():
        branches[name] = _converted(_renamed(entries, fmt, family, file), fmt, family, flat)
        buffers = _take_buffers(branches[name], family)
        told |= family.told(buffers, description)
        lines += _without(buffers) + _complete(branches[name], fmt, family)
    if layout.ignored:
        lines.append("Not used: " + ", ".join(f"'{name}'" for name in layout.ignored) + ".")
    return Checkpoint(
        file=file,
        format=fmt,
        family=family,
        branches=branches,
        centers={_center_key(name): entry for name, entry in layout.losses.items()},
        loose=layout.loose,
        optimizer=layout.optimizer,
        iteration=layout.iteration,
        student_order=[key for key in order if not family.is_buffer(key.partition(".")[2])],
        told=told,
        lines=list(dict.fromkeys(lines)),
        flat=flat,
    )


def _holds(layout: Layout) -> str:
    found = ["one network"] if layout.bare else list(layout.branches)
    if layout.optimizer is not None:
        found.append("optimizer")
    if layout.iteration is not None:
        found.append(f"iteration {layout.iteration}")
    return ", ".join(found)


def _part(branch: Mapping[str, Entry], part: str) -> dict[str, Entry]:
    prefix = f"{part}."
    return {
        key.removeprefix(prefix): entry for key, entry in branch.items() if key.startswith(prefix)
    }


def _take_buffers(branch: dict[str, Entry], family: Family) -> dict[str, Entry]:
    """Take what is no parameter out of a branch, and return it by the backbone's names."""
    buffers = {key: e for key, e in _part(branch, "backbone").items() if family.is_buffer(key)}
    for key in buffers:
        del branch[f"backbone.{key}"]
    return buffers


def _without(buffers: Mapping[str, Entry]) -> list[str]:
    if not buffers:
        return []
    key = next(iter(buffers.values())).key
    return [f"Left out, as they are worked out here: {len(buffers)} tables such as '{key}'."]


def _complete(branch: dict[str, Entry], fmt: Format, family: Family) -> list[str]:
    """Put what a format says by leaving it out into a branch; return a line for each."""
    backbone = _part(branch, "backbone")
    lines = family.complete(backbone, fmt.name)
    branch.update({f"backbone.{key}": entry for key, entry in backbone.items()})
    return lines


def _our_key(fmt: Format, family: Family, name: str) -> str:
    part, _, inner = name.partition(".")
    if part == "backbone":
        return f"backbone.{fmt.backbones[family.name](inner)}"
    return f"dino_head.{fmt.head(inner)}" if part == "dino_head" and fmt.head else name


def _renamed(
    entries: Mapping[str, Entry], fmt: Format, family: Family, file: Path
) -> dict[str, Entry]:
    renamed: dict[str, Entry] = {}
    for name, entry in entries.items():
        key = _our_key(fmt, family, name)
        if key in renamed:
            raise UserError(
                f"'{renamed[key].key}' and '{entry.key}' in '{file}' are the same parameter, '{key}'."
            )
        renamed[key] = entry
    return renamed


def _converted(
    branch: Mapping[str, Entry], fmt: Format, family: Family, flat: bool
) -> dict[str, Entry]:
    """Return a branch in our order of channels; flat parameters have their shapes first."""
    sizes = {part: {k: e.tensor.numel() for k, e in _part(branch, part).items()} for part in PARTS}
    converted = {}
    for key, entry in branch.items():
        part, _, inner = key.partition(".")
        tensor = entry.tensor
        if flat:
            rules = family.name if part == "backbone" else part
            tensor = unflatten(rules, inner, tensor, sizes.get(part, {}))
        converted[key] = Entry(entry.key, fmt.convert(key, tensor))
    return converted


def _center_key(name: str) -> str:
    """Return our name of a loss's running center; DINOv2's only one has no number."""
    match = re.fullmatch(r"(dino_loss|ibot_patch_loss)\.center(?:_(\d+))?", name)
    if match is None:
        return name
    kind = "cls" if match.group(1) == "dino_loss" else "patch"
    return f"{kind}_targets.center_{match.group(2) or 0}"


def _drop(layout: Layout, drop: Sequence[str], family: Family, file: Path) -> list[str]:
    lines = []
    for wanted in drop:
        dropped = []
        for branch in (*layout.branches.values(), layout.losses, layout.loose):
            for name in [name for name in branch if _is_under(name, wanted)]:
                key = branch.pop(name).key
                _refuse_drop(key, family, file)
                dropped.append(key)
        if not dropped:
            raise UserError(f"Nothing in '{file}' is called '{wanted}', which was to be left out.")
        lines.append("Left out: " + ", ".join(f"'{name}'" for name in dict.fromkeys(dropped)) + ".")
    return lines


def _is_under(name: str, wanted: str) -> bool:
    short = name.removeprefix(f"{PARTS[0]}.")
    return any(n == wanted or n.startswith(f"{wanted}.") for n in (name, short))


def _refuse_drop(key: str, family: Family, file: Path) -> None:
    for pattern, reason in family.reasons.items():
        if re.search(pattern, key):
            raise UserError(f"'{key}' in '{file}' cannot be left out: it is {reason}.")
