"""The manifest of a checkpoint: its files, and where in them each tensor lies.

A file is the piece that one rank wrote, of the model or of the optimizer; a checkpoint of one process has one
piece of each. A tensor has one part or several: rectangles of it, in one piece each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from poa_plugin.weights import reading_tensors

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
KINDS = (MODEL, OPTIMIZER)
"""What a checkpoint holds tensors of, named by the files of one process."""
MANIFEST = "manifest.json"

Shape = tuple[int, ...]


class Part(NamedTuple):
    """A rectangle of a tensor: the piece that holds it, its first index in the tensor, and its shape."""

    file: str
    offset: Shape
    shape: Shape


class Entry(NamedTuple):
    """A tensor: the name of its type in torch (`float32`), its shape, and the parts it is stored in."""

    dtype: str
    shape: Shape
    parts: tuple[Part, ...]

    @property
    def numel(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size of the values."""
        return self.numel * torch_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of, or what one rank has written of it.

    Attributes:
        step: for which it was written.
        ranks: which have written it.
        files: the pieces, with their `bytes` and `sha256`.
        tensors: by kind (`MODEL`, `OPTIMIZER`) and name.
        weights: the checksum of the same weights before they were consolidated.
    """

    step: int
    ranks: int
    files: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Entry]]
    weights: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the files are those of one process."""
        return self.files.keys() == set(KINDS)

    def weights_checksum(self) -> str:
        """Return what identifies the weights: the SHA-256 of their file, or of the pieces' names and SHA-256.

        Consolidating a checkpoint does not change it.
        """
        if self.weights is not None:
            return self.weights
        files = {name: entry["sha256"] for name, entry in self.files.items() if is_model(name)}
        if files.keys() == {MODEL}:
            return str(files[MODEL])
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, which `parse` reads."""
        tensors = {
            Path(kind).stem: {
                name: {
                    "dtype": entry.dtype,
                    "shape": entry.shape,
                    "parts": [part._asdict() for part in entry.parts],
                }
                for name, entry in entries.items()
            }
            for kind, entries in self.tensors.items()
        }
        weights = {} if self.weights is None else {"weights": self.weights}
        return {
            "step": self.step,
            "ranks": self.ranks,
            **weights,
            "files": self.files,
            "tensors": tensors,
        }


def piece_name(kind: str, rank: int, ranks: int) -> str:
    """Return the name of a rank's file: `model.safetensors` of one, `model-00001-of-00003.safetensors`."""
    stem = Path(kind).stem
    return kind if ranks == 1 else f"{stem}-{rank + 1:05}-of-{ranks:05}.safetensors"


def is_model(file: str) -> bool:
    """Tell whether a file is a piece of the model."""
    return file.startswith(Path(MODEL).stem)


def torch_dtype(name: str) -> torch.dtype:
    """Return a type by its name in torch.

    Raises:
        ValueError: there is none of this name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"'{name}' is no type of tensors")
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type in torch, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def parse(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is no JSON, lacks something, or names files outside of its folder.
    """
    try:
        values = json.loads(text)
        files = {
            _file(name): {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for name, entry in values["files"].items()
        }
        tensors = {
            kind: {
                name: _entry(entry, files)
                for name, entry in values["tensors"][Path(kind).stem].items()
            }
            for kind in KINDS
        }
        return Manifest(
            int(values["step"]), int(values["ranks"]), files, tensors, values.get("weights")
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def merge(manifests: Iterable[Manifest]) -> Manifest:
    """Join what the ranks have written to the manifest of the checkpoint.

    Raises:
        ValueError: the ranks have written of different steps, contradict one another about a tensor, or have
            not written all of it.
    """
    manifests = list(manifests)
    step, ranks = manifests[0].step, manifests[0].ranks
    if {(manifest.step, manifest.ranks) for manifest in manifests} != {(step, ranks)}:
        raise ValueError(f"pieces are of steps {[manifest.step for manifest in manifests]}")
    files = {name: entry for manifest in manifests for name, entry in manifest.files.items()}
    tensors: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    for manifest in manifests:
        for kind, entries in manifest.tensors.items():
            for name, entry in entries.items():
                former = tensors[kind].get(name, entry._replace(parts=()))
                if (former.dtype, former.shape) != (entry.dtype, entry.shape):
                    raise ValueError(
                        f"'{name}' is {former.dtype} {former.shape} and {entry.dtype} {entry.shape}"
                    )
                tensors[kind][name] = entry._replace(parts=former.parts + entry.parts)
    merged = Manifest(step, ranks, files, tensors)
    _check_complete(merged)
    return merged


def manifest_of_files(folder: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """Return the manifest of a checkpoint from before there were any: a file for each kind, of whole tensors.

    Args:
        folder: of the checkpoint.
        step: of the checkpoint.
        files: their `bytes` and `sha256`.

    Raises:
        UserError: a file cannot be read.
    """
    tensors: dict[str, dict[str, Entry]] = {}
    for kind in KINDS:
        with reading_tensors(folder / kind), safe_open(folder / kind, "pt") as opened:
            names = opened.keys()
            tensors[kind] = {name: whole_entry(opened.get_tensor(name), kind) for name in names}
    return Manifest(step, 1, files, tensors)


def whole_entry(tensor: torch.Tensor, file: str) -> Entry:
    """Return the entry of a tensor that a file holds whole."""
    shape = tuple(tensor.shape)
    return Entry(dtype_name(tensor.dtype), shape, (Part(file, (0,) * len(shape), shape),))


def _check_complete(manifest: Manifest) -> None:
    for entries in manifest.tensors.values():
        for name, entry in entries.items():
            written = sum(prod(part.shape) for part in entry.parts)
            if written != entry.numel:
                raise ValueError(f"{written} values of the {entry.numel} of '{name}' were written")


def _file(name: str) -> str:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"'{name}' is no name of a piece")
    return name


def _entry(values: Mapping[str, Any], files: Mapping[str, Any]) -> Entry:
    shape = tuple(map(int, values["shape"]))
    parts = tuple(
        Part(part["file"], tuple(map(int, part["offset"])), tuple(map(int, part["shape"])))
        for part in values["parts"]
    )
    for part in parts:
        fits = len(part.offset) == len(part.shape) == len(shape)
        if part.file not in files or not fits:
            raise ValueError(f"a part in '{part.file}' fits no tensor of shape {shape}")
    torch_dtype(values["dtype"])
    return Entry(values["dtype"], shape, parts)
