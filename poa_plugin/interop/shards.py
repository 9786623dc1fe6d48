"""Training checkpoints with a file for each GPU, as the published code and DINOv2 write them: joined into one.

Both wrap each sub-module in torch's FSDP with `use_orig_params=True` and save its `LOCAL_STATE_DICT`. A rank's
file then holds, under every parameter's name, the elements of the flattened parameter that lie on that rank
(often none), and for each FSDP unit `_flat_param`, a `ShardedTensor` that says how the unit is divided. Buffers
are whole in every file. The optimizer's moments are divided like the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from poa_plugin.errors import UserError
from poa_plugin.interop.files import RANK, check_ranks, read_file

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


class _Rank(NamedTuple):
    """A rank's file: its tensors, how its FSDP units are divided, and what else it holds.

    A unit has its number of elements, padding included, and each rank's (offset, length).
    """

    file: Path
    tensors: dict[str, Tensor]
    units: dict[str, tuple[int, dict[int, tuple[int, int]]]]
    contents: dict[str, Any]


def join(files: Sequence[Path]) -> tuple[dict[str, Any], bool]:
    """Return what the files of all ranks hold together, and whether parameters are flat.

    Parameters that were divided are one-dimensional tensors of all their elements.

    Raises:
        UserError: a rank's file is missing or too many, the files are of different iterations or runs, or
            elements are missing.
    """
    if RANK.fullmatch(files[0].name) is None:
        return read_file(files[0]), False
    ranks = [_read_rank(number, file) for number, file in enumerate(files)]
    _check_same_run(ranks)
    contents = {**ranks[0].contents, "model": _joined_model(ranks)}
    if ranks[0].units and isinstance(contents.get("optimizer"), Mapping):
        contents["optimizer"] = _joined_optimizer(ranks)
    return contents, bool(ranks[0].units)


def read_inert(file: Path) -> dict[str, Any]:
    """Read one rank's file (see `read_file`); objects of `torch.distributed` become inert stand-ins."""
    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except Exception:  # no zip archive, or damaged: `read_file` says what is wrong
        names = []
    distributed = [name for name in names if name.startswith("torch.distributed.")]
    stand_ins: list[Any] = [
        (_Sharded if name.endswith(".ShardedTensor") else _Inert, name) for name in distributed
    ]
    if distributed:
        stand_ins.append((_inert_member, "builtins.getattr"))
    return read_file(file, stand_ins)


def _read_rank(number: int, file: Path) -> _Rank:
    contents = read_inert(file)
    model = contents.pop("model", None)
    if not isinstance(model, Mapping):
        raise UserError(f"The file '{file}' is no rank's checkpoint: it has no entry 'model'.")
    units = {
        name.removesuffix(_FLAT): _unit(tensor, file, number)
        for name, tensor in model.items()
        if isinstance(tensor, _Sharded)
    }
    tensors = {name: x for name, x in model.items() if not isinstance(x, _Sharded)}
    return _Rank(file, tensors, units, contents)


def _unit(sharded: _Sharded, file: Path, number: int) -> tuple[int, dict[int, tuple[int, int]]]:
    """Read the division of a unit off the state of its `ShardedTensor`."""
    try:
        local, metadata, *_ = sharded.state
        parts = dict(map(_part, metadata.fields["shards_metadata"]))
        size = math.prod(metadata.fields["size"])
        owners = {_part(shard.fields["metadata"])[0] for shard in local}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The file '{file}' holds a sharded tensor that is not described as torch's FSDP describes it."
        ) from error
    if not owners <= {number}:
        raise UserError(
            f"The file '{file}' holds what belongs to rank {min(owners)}: it was renamed."
        )
    return size, parts


def _part(shard: _Inert) -> tuple[int, tuple[int, int]]:
    """Return the rank that a shard lies on, and its (offset, length)."""
    [offset], [length] = shard.fields["shard_offsets"], shard.fields["shard_sizes"]
    return int(shard.fields["placement"].fields["_rank"]), (int(offset), int(length))


def _check_same_run(ranks: Sequence[_Rank]) -> None:
    first = ranks[0]
    numbers = {number for _, parts in first.units.values() for number in parts}
    check_ranks(first.file, set(range(len(ranks))), max(numbers, default=0) + 1)
    for other in ranks[1:]:
        if (
            other.units != first.units
            or other.tensors.keys() != first.tensors.keys()
            or other.contents.get("iteration") != first.contents.get("iteration")
            or _param_groups(other) != _param_groups(first)
        ):
            raise UserError(
                f"'{other.file}' and '{first.file}' are of different iterations, runs or numbers of GPUs."
            )


def _param_groups(rank: _Rank) -> Any:
    optimizer = rank.contents.get("optimizer")
    return optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None


def _joined_model(ranks: Sequence[_Rank]) -> dict[str, Any]:
    """Return the tensors of all ranks: parts one after the other, and what all have once.

    Whether a unit is divided shows in the number of its elements: a rank can also hold it whole.
    """
    divided: set[str] = set()
    for prefix, (size, _) in ranks[0].units.items():
        names = _members(prefix, ranks[0])
        flat = [name for name in names if all(rank.tensors[name].dim() == 1 for rank in ranks)]
        total = sum(rank.tensors[name].numel() for rank in ranks for name in flat)
        if 0 <= size - total <= _ALIGNMENT * len(flat) + len(ranks):
            divided |= set(flat)
    for name in ranks[0].tensors.keys() - divided:
        if not _is_same([rank.tensors[name] for rank in ranks]):
            raise UserError(
                f"The files of the ranks beside '{ranks[0].file}' hold neither the parts of '{name}' nor all "
                f"of it: a file is damaged or of another run."
            )
    return {
        name: torch.cat([rank.tensors[name] for rank in ranks]) if name in divided else value
        for name, value in ranks[0].tensors.items()
    }


def _members(prefix: str, rank: _Rank) -> list[str]:
    """Return the tensors whose innermost unit has a prefix, tables of integers left out."""
    inner = tuple(other for other in rank.units if other != prefix and other.startswith(prefix))
    return [
        name
        for name, value in rank.tensors.items()
        if name.startswith(prefix)
        and not name.startswith(inner)
        and isinstance(value, Tensor)
        and value.is_floating_point()
    ]


def _is_same(values: Sequence[Any]) -> bool:
    first, *others = values
    if isinstance(first, Tensor):
        return all(isinstance(other, Tensor) and torch.equal(other, first) for other in others)
    return all(other == first for other in others)


def _joined_optimizer(ranks: Sequence[_Rank]) -> dict[str, Any]:
    """Return the optimizer's state with undivided, flat moments."""
    states = [rank.contents["optimizer"].get("state", {}) for rank in ranks]
    joined: dict[Any, dict[str, Any]] = {}
    for number in sorted({number for state in states for number in state}):
        parts = [state[number] for state in states if number in state]
        joined[number] = {
            key: torch.cat([part[key] for part in parts if key in part])
            if isinstance(value, Tensor) and value.dim() == 1
            else value
            for key, value in parts[0].items()
        }
    return {**ranks[0].contents["optimizer"], "state": joined}
