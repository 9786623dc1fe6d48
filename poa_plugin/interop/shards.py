"""Training checkpoints with a file for each GPU, as the published code and DINOv2 write them: joined into one.

Both wrap each sub-module in torch's FSDP with `use_orig_params=True` and save its `LOCAL_STATE_DICT`. A rank's
file then holds, under every parameter's name, the elements of the flattened parameter that lie on that rank
(often none), and for each FSDP unit `_flat_param`, a `ShardedTensor` that says how the unit is divided. Buffers
are whole in every file. The optimizer's moments are divided like the parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from poa_plugin.errors import UserError
from poa_plugin.interop.read import check_file, read_file

RANK = re.compile(r"(?P<name>.+)\.rank_(?P<rank>\d+)\.pth")
_FLAT = "_flat_param"
_ALIGNMENT = 8
"""FSDP can start every parameter at a multiple of 16 bytes, 8 numbers of half precision."""


class _Inert:
    """Stands in for an object of `torch.distributed` in a file: keeps its fields, and runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        self.fields = {
            key: x for part in parts if isinstance(part, dict) for key, x in part.items()
        }


def _inert_member(owner: Any, name: str) -> type[_Inert]:
    """Stands in for `getattr`, by which a pickle names a class within a class."""
    return _Inert


class _Sharded(Tensor):
    """Stands in for a `ShardedTensor`: keeps the state that its pickle gives it."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    state: tuple[Any, ...] = ()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, *_: Any, **__: Any
    ) -> Any:
        raise NotImplementedError

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Unit(NamedTuple):
    """How an FSDP unit is divided: its elements, padding included, and each rank's (offset, length)."""

    size: int
    parts: dict[int, tuple[int, int]]


@dataclass
class _Rank:
    """One rank's file: its tensors, the units by the prefix of their parameters, and all else."""

    file: Path
    rank: int
    tensors: dict[str, Tensor]
    units: dict[str, Unit]
    contents: dict[str, Any]


def rank_files(file: Path) -> list[Path]:
    """Return the files of all ranks of the checkpoint that a file belongs to, rank 0 first.

    A file whose name does not end in `.rank_<n>.pth` is a checkpoint by itself.

    Raises:
        UserError: there is no such file, or the file of a lower rank than the highest is missing.
    """
    check_file(file)
    match = RANK.fullmatch(file.name)
    if match is None:
        return [file]
    try:
        beside = list(file.parent.iterdir())
    except OSError as error:
        raise UserError(f"'{file.parent}' cannot be read: {error.strerror}.") from error
    found = {
        int(other["rank"]): sibling
        for sibling in beside
        if (other := RANK.fullmatch(sibling.name)) and other["name"] == match["name"]
    }
    _refuse_missing(file, set(found), max(found) + 1)
    return [found[rank] for rank in sorted(found)]


def is_sharded(contents: Mapping[str, Any]) -> bool:
    """Tell whether a file that `read_rank` read is a part of a checkpoint."""
    model = contents.get("model")
    return isinstance(model, Mapping) and any(isinstance(x, _Sharded) for x in model.values())


def read_rank(file: Path) -> dict[str, Any]:
    """Read one rank's file (see `read_file`); objects of `torch.distributed` become inert stand-ins."""
    check_file(file)
    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except Exception:  # no zip archive, or damaged: `read_file` says what is wrong
        names = []
    known = [name for name in names if name.startswith("torch.distributed.")]
    stand_ins = [(_Sharded if name.endswith(".ShardedTensor") else _Inert, name) for name in known]
    members = [(_inert_member, "builtins.getattr")] if known else []
    return read_file(file, [*stand_ins, *members])


def join(files: Sequence[Path]) -> tuple[dict[str, Any], bool]:
    """Return what the files of all ranks hold together, and whether parameters are flat.

    Parameters that were divided come back as one-dimensional tensors of all their elements; see `unflatten`.

    Raises:
        UserError: a rank's file is missing or too many, the files are of different iterations or runs, or
            elements are missing.
    """
    if RANK.fullmatch(files[0].name) is None:
        return read_file(files[0]), False
    first = read_rank(files[0])
    if len(files) == 1 and not is_sharded(first):
        return first, False
    ranks = [_rank(file, i, read_rank(file) if i else first) for i, file in enumerate(files)]
    _check_same_run(ranks)
    contents = {**ranks[0].contents, "model": _joined(ranks)}
    if ranks[0].units and isinstance(contents.get("optimizer"), Mapping):
        contents["optimizer"] = _joined_optimizer(ranks)
    return contents, bool(ranks[0].units)


def _rank(file: Path, rank: int, contents: dict[str, Any]) -> _Rank:
    model = contents.pop("model", None)
    if not isinstance(model, Mapping):
        raise UserError(f"The file '{file}' is no rank's checkpoint: it has no entry 'model'.")
    units = {
        name.removesuffix(_FLAT): _unit(tensor, file, rank)
        for name, tensor in model.items()
        if isinstance(tensor, _Sharded)
    }
    tensors = {name: x for name, x in model.items() if not isinstance(x, _Sharded)}
    if not units and any(name.endswith(_FLAT) for name in tensors):
        raise UserError(
            f"The file '{file}' holds flat parameters without the parameters' names, which other code than "
            f"the published one wrote: import its eval/<iteration>/teacher_checkpoint.pth."
        )
    return _Rank(file, rank, tensors, units, contents)


def _unit(sharded: _Sharded, file: Path, rank: int) -> Unit:
    """Read the division of a unit off the state of its `ShardedTensor`."""
    try:
        local, metadata, *_ = sharded.state
        parts = dict(_part(shard) for shard in metadata.fields["shards_metadata"])
        unit = Unit(math.prod(metadata.fields["size"]), parts)
        owners = {_part(shard.fields["metadata"])[0] for shard in local}
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UserError(
            f"The file '{file}' holds a sharded tensor that is not described as torch's FSDP describes it."
        ) from error
    if not owners <= {rank}:
        raise UserError(
            f"The file '{file}' holds what belongs to rank {min(owners)}: it was renamed."
        )
    return unit


def _part(shard: _Inert) -> tuple[int, tuple[int, int]]:
    """Return the rank that a shard lies on, and its (offset, length)."""
    [offset], [length] = shard.fields["shard_offsets"], shard.fields["shard_sizes"]
    return int(shard.fields["placement"].fields["_rank"]), (int(offset), int(length))


def _check_same_run(ranks: Sequence[_Rank]) -> None:
    first = ranks[0]
    wanted = {rank for unit in first.units.values() for rank in unit.parts}
    _refuse_missing(first.file, {rank.rank for rank in ranks}, max(wanted, default=0) + 1)
    for other in ranks[1:]:
        here, there = (x.contents.get("iteration") for x in (first, other))
        if here != there:
            raise UserError(
                f"The files are of different iterations: '{first.file}' of {here}, '{other.file}' of {there}."
            )
        if other.units != first.units or other.tensors.keys() != first.tensors.keys():
            raise UserError(
                f"'{other.file}' is not of the same run as '{first.file}': it was divided among another "
                f"number of GPUs, or is of another network."
            )


def _refuse_missing(file: Path, found: set[int], count: int) -> None:
    names = [file.name.replace(_tail(file), f".rank_{rank}.pth") for rank in range(count)]
    missing = [f"'{name}'" for rank, name in enumerate(names) if rank not in found]
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise UserError(
            f"The checkpoint of '{file}' is divided among {count} ranks, and {len(missing)} of their files "
            f"are missing beside it: {shown}."
        )


def _tail(file: Path) -> str:
    match = RANK.fullmatch(file.name)
    return f".rank_{match['rank']}.pth" if match else file.suffix


def _joined(ranks: Sequence[_Rank]) -> dict[str, Any]:
    """Return the tensors of all ranks: parts one after the other, and what all have once.

    Whether a unit is divided is told by the number of its elements: a rank can also hold it whole.
    """
    names = {prefix: _members(prefix, ranks[0]) for prefix in ranks[0].units}
    divided = set()
    for prefix, unit in ranks[0].units.items():
        flat = [name for name in names[prefix] if all(r.tensors[name].dim() == 1 for r in ranks)]
        total = sum(rank.tensors[name].numel() for rank in ranks for name in flat)
        if 0 <= unit.size - total <= _ALIGNMENT * len(flat) + len(ranks):
            divided |= set(flat)
        elif not all(_same(name, ranks) for name in names[prefix]):
            raise UserError(
                f"The files of {len(ranks)} ranks beside '{ranks[0].file}' hold {total} of the {unit.size} "
                f"elements of '{prefix}': a file is damaged or of another run."
            )
    for name in ranks[0].tensors.keys() - divided:
        if not _same(name, ranks):
            raise UserError(
                f"'{name}' is whole in the file of every rank beside '{ranks[0].file}', but not the same."
            )
    return {
        name: torch.cat([rank.tensors[name] for rank in ranks]) if name in divided else value
        for name, value in ranks[0].tensors.items()
    }


def _members(prefix: str, rank: _Rank) -> list[str]:
    """Return the tensors whose innermost unit has a prefix, tables of integers left out."""
    inner = [other for other in rank.units if other != prefix and other.startswith(prefix)]
    return [
        name
        for name, value in rank.tensors.items()
        if name.startswith(prefix)
        and not name.startswith(tuple(inner))
        and isinstance(value, Tensor)
        and value.is_floating_point()
    ]


def _same(name: str, ranks: Sequence[_Rank]) -> bool:
    first, *others = (rank.tensors[name] for rank in ranks)
    if not isinstance(first, Tensor):
        return all(other == first for other in others)
    return all(isinstance(other, Tensor) and torch.equal(other, first) for other in others)


def _joined_optimizer(ranks: Sequence[_Rank]) -> dict[str, Any]:
    """Return the optimizer's state with whole, flat moments."""
    optimizers = [rank.contents.get("optimizer") or {} for rank in ranks]
    groups = [optimizer.get("param_groups") for optimizer in optimizers]
    for rank, group in zip(ranks, groups, strict=True):
        if group != groups[0]:
            raise UserError(
                f"The optimizers in '{ranks[0].file}' and '{rank.file}' are at different points: leave them "
                f"out with --drop optimizer."
            )
    states = [optimizer.get("state", {}) for optimizer in optimizers]
    joined: dict[Any, dict[str, Any]] = {}
    for number in sorted({number for state in states for number in state}):
        own = [state[number] for state in states if number in state]
        joined[number] = {
            key: torch.cat([x[key] for x in own if key in x]) if _is_moment(value) else value
            for key, value in own[0].items()
        }
    return {"state": joined, "param_groups": groups[0] or []}


def _is_moment(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1
