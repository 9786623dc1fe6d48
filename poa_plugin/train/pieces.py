"""What each rank writes of a checkpoint, and how the first rank learns that all have.

A rank writes a piece of the model and one of the optimizer: its rows of tensors that are sharded, and its
part, by size, of the tensors that all ranks have. The files are `model-00002-of-00003.safetensors` and so on,
and `model.safetensors` of a single rank. A note beside them, the manifest of these pieces alone, says that they
are complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from poa_plugin.files import flush, write_atomically
from poa_plugin.train.integrity import checksum
from poa_plugin.train.manifest import Entry, Manifest, Part, dtype_name, merge, parse, piece_name
from poa_plugin.train.placement import Held, held
from poa_plugin.weights import save_tensors

NOTE_SECONDS = 600.0
"""How long the first rank waits for the pieces of the others once its own are written."""
POLL_SECONDS = 0.02

Tensors = Mapping[str, Mapping[str, Tensor]]
"""By kind (`MODEL`, `OPTIMIZER`) and name."""
HeldTensors = dict[str, dict[str, Held]]
"""What a rank writes, by kind and name."""


class FailedRankError(Exception):
    """A rank has not written its pieces.

    Attributes:
        who: the rank, as it is called in messages.
        reason: a phrase.
    """

    def __init__(self, who: str, reason: str) -> None:
        super().__init__(f"{who}: {reason}")
        self.who, self.reason = who, reason


def to_write(tensors: Tensors, rank: int, ranks: int) -> HeldTensors:
    """Return what a rank writes: its rows of sharded tensors, and its part of those that all ranks have.

    No rank asks another: the largest tensors go first, each to the rank that has the fewest bytes.
    """
    parts: HeldTensors = {kind: {} for kind in tensors}
    everywhere = []
    for kind, named in tensors.items():
        for name, tensor in named.items():
            part = held(tensor)
            if part.is_everywhere:
                everywhere.append((-part.tensor.nbytes, kind, name, part))
            elif part.is_first and part.tensor.numel():
                parts[kind][name] = part
    n_bytes = [0] * ranks
    for size, kind, name, part in sorted(everywhere, key=lambda item: item[:3]):
        writer = n_bytes.index(min(n_bytes))
        n_bytes[writer] -= size
        if writer == rank:
            parts[kind][name] = part
    return parts


def copied(parts: HeldTensors) -> HeldTensors:
    """Return the tensors in host memory of their own, so that training may change the originals."""
    return {
        kind: {
            name: part._replace(tensor=part.tensor.detach().to("cpu", copy=True).contiguous())
            for name, part in named.items()
        }
        for kind, named in parts.items()
    }


def write_pieces(folder: Path, parts: HeldTensors, step: int, rank: int, ranks: int) -> Manifest:
    """Write a rank's pieces into a folder, and flush them.

    Returns:
        The manifest of these pieces.

    Raises:
        OSError: the disk refuses.
    """
    files, tensors = {}, {}
    for kind, named in parts.items():
        file = folder / piece_name(kind, rank, ranks)
        content = {name: part.tensor.detach().cpu().contiguous() for name, part in named.items()}
        save_tensors(content, file, metadata={"step": str(step)})
        flush(file)
        files[file.name] = checksum(file)
        tensors[kind] = {name: _entry(part, file.name) for name, part in named.items()}
    return Manifest(step, ranks, files, tensors)


def _entry(part: Held, file: str) -> Entry:
    tensor = part.tensor
    stored = Part(file, part.offset, tuple(tensor.shape))
    return Entry(dtype_name(tensor.dtype), part.shape, (stored,))


def write_note(folder: Path, manifest: Manifest, rank: int, ranks: int) -> None:
    """Write a rank's note: its pieces are complete.

    Raises:
        OSError: the disk refuses.
    """
    write_atomically(_note(folder, rank, ranks), json.dumps(manifest.to_json()))


def write_failure(folder: Path, error: FailedRankError, rank: int, ranks: int) -> None:
    """Write in the place of a rank's note why there are no pieces, if the disk takes that."""
    with suppress(OSError):
        text = json.dumps({"who": error.who, "failed": error.reason})
        write_atomically(_note(folder, rank, ranks), text)


def collect_notes(folder: Path, ranks: int) -> Manifest:
    """Return the manifest of a checkpoint from the notes of all ranks; wait until they are there.

    Raises:
        FailedRankError: a rank could not write its pieces, or has not for `NOTE_SECONDS`.
        ValueError: the notes contradict one another.
        OSError: they cannot be read.
    """
    deadline, manifests = time.monotonic() + NOTE_SECONDS, []
    for rank in range(ranks):
        note = _note(folder, rank, ranks)
        while not note.exists():
            if time.monotonic() > deadline:
                waited = f"its pieces are not there after {NOTE_SECONDS:.0f} seconds"
                raise FailedRankError(f"rank {rank}", waited)
            time.sleep(POLL_SECONDS)
        text = note.read_text(encoding="utf-8")
        values = json.loads(text)
        if "failed" in values:
            raise FailedRankError(values["who"], values["failed"])
        manifests.append(parse(text))
    return merge(manifests)


def remove_notes(folder: Path, ranks: int) -> None:
    """Remove the notes, once the manifest has what they say."""
    for rank in range(ranks):
        _note(folder, rank, ranks).unlink()


def _note(folder: Path, rank: int, ranks: int) -> Path:
    return folder / f"piece-{rank + 1:05}-of-{ranks:05}.json"
