"""Reading the tensors of a checkpoint, whole or only the rows that a rank holds, from however many pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.files import reading
from poa_plugin.train.integrity import read_manifest
from poa_plugin.train.manifest import Entry, Part, Shape, dtype_name, torch_dtype
from poa_plugin.train.placement import held, sharded_like
from poa_plugin.weights import reading_tensors


class StoredTensors:
    """The tensors of a checkpoint's model or optimizer; see `open_tensors`.

    Args:
        folder: of the checkpoint.
        entries: the tensors by name.
        opened: closes the files.
    """

    def __init__(self, folder: Path, entries: Mapping[str, Entry], opened: ExitStack) -> None:
        self.folder, self.entries = folder, entries
        self._opened, self._files = opened, dict[str, Any]()

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the whole tensors by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def read(self, name: str, offset: Shape | None = None, shape: Shape | None = None) -> Tensor:
        """Return a tensor, or a rectangle of it, in newly allocated memory of the host.

        Args:
            name: of the tensor.
            offset: of the rectangle's first value; its beginning if left out.
            shape: of the rectangle; of the whole tensor if left out.

        Raises:
            UserError: a piece is missing or damaged, or is not what the manifest says.
        """
        entry = self.entries[name]
        offset = (0,) * len(entry.shape) if offset is None else offset
        shape = entry.shape if shape is None else shape
        tensor, n_read = torch.empty(shape, dtype=torch_dtype(entry.dtype)), 0
        for part in entry.parts:
            overlap = _overlap(part, offset, shape)
            if prod(stop - start for start, stop in overlap) == 0:
                continue
            source = self._part(name, part, entry)[_index(overlap, part.offset)]
            tensor[_index(overlap, offset)].copy_(source)
            n_read += source.numel()
        if n_read != tensor.numel():
            raise UserError(
                f"The checkpoint '{self.folder}' has {n_read} of the {tensor.numel()} values of '{name}'."
            )
        return tensor

    def read_like(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor placed as another one of its shape is: whole, or sharded, then this rank's rows."""
        local = held(tensor)
        return sharded_like(self.read(name, local.offset, tuple(local.tensor.shape)), tensor)

    def _part(self, name: str, part: Part, entry: Entry) -> Tensor:
        """Return a part in memory that is mapped from its file: copy it before the files are closed."""
        file = self.folder / part.file
        with reading_tensors(file):
            if part.file not in self._files:
                self._files[part.file] = self._opened.enter_context(safe_open(file, "pt"))
            tensor: Tensor = self._files[part.file].get_tensor(name)
        if (tuple(tensor.shape), dtype_name(tensor.dtype)) != (part.shape, entry.dtype):
            raise UserError(
                f"'{name}' in '{file}' is {dtype_name(tensor.dtype)} {tuple(tensor.shape)}, and the "
                f"checkpoint's manifest says {entry.dtype} {part.shape}."
            )
        return tensor


@contextmanager
def open_tensors(folder: Path, kind: str) -> Iterator[StoredTensors]:
    """Open the tensors of a checkpoint of any format, to be read while the context lasts.

    Args:
        folder: of the checkpoint.
        kind: `MODEL` or `OPTIMIZER`.

    Raises:
        NewerFormatError: the checkpoint has a format that this version of the package cannot read.
        UserError: its `state.json` or its manifest cannot be read.
    """
    try:
        with reading(folder):
            manifest = read_manifest(folder)
    except (ValueError, KeyError) as error:
        raise UserError(f"The checkpoint '{folder}' cannot be read: {error}.") from error
    with ExitStack() as opened:
        yield StoredTensors(folder, manifest.tensors[kind], opened)


def _overlap(part: Part, offset: Shape, shape: Shape) -> list[tuple[int, int]]:
    """Return first index and end, by dimension, of what a part has of a rectangle; equal ones if nothing."""
    pairs = zip(part.offset, part.shape, offset, shape, strict=True)
    bounds = [(max(a, b), min(a + m, b + n)) for a, m, b, n in pairs]
    return [(start, max(start, stop)) for start, stop in bounds]


def _index(bounds: list[tuple[int, int]], offset: Shape) -> tuple[slice, ...]:
    return tuple(
        slice(start - first, stop - first)
        for (start, stop), first in zip(bounds, offset, strict=True)
    )
