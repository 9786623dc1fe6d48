"""A run's output folder belongs to one set of images: their names are compared at each start."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from poa_plugin.config.schema import Config
from poa_plugin.data import Names
from poa_plugin.data.names import printable
from poa_plugin.data.reading import read_errors
from poa_plugin.errors import UserError
from poa_plugin.files import write_atomically
from poa_plugin.train import checkpoint

RECORD, NAMES = "data.json", "data_names.gz"


class ImageRecord(NamedTuple):
    """The record of a run's images: how many, and the SHA-256 of their names in order."""

    n_images: int
    sha256: str

    @classmethod
    def of(cls, names: Names) -> ImageRecord:
        """Return the record of names."""
        return cls(len(names), hashlib.sha256(names.text).hexdigest())


def read_record(run: Path) -> ImageRecord | None:
    """Return the record in a run's folder, or None where there is none.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    file = run / RECORD
    with read_errors("file", file):
        if not file.is_file():
            return None
        text = file.read_bytes()
    try:
        record = json.loads(text)
        return ImageRecord(int(record["n_images"]), str(record["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{file}', which records the images that the run is trained on, is damaged. Remove it, and the "
            f"next start records the images that it reads."
        ) from error


def check_images(run: Path, config: Config, names: Names, newest: Path | None) -> list[str]:
    """Return how the images differ from those of the run in a folder; nothing where they do not.

    A run that was imported and not yet trained here takes any images, and so does one without a record.

    Args:
        run: the output folder.
        config: the full configuration.
        names: of the images, in order.
        newest: the checkpoint to resume from, if there is one.

    Raises:
        UserError: they differ, and `train.accept_changes` is off.
    """
    recorded, current = read_record(run), ImageRecord.of(names)
    if recorded in (None, current) or (newest is not None and checkpoint.is_imported(newest)):
        return []
    changes = [_difference(run, recorded, names)]
    if not config.train.accept_changes:
        raise UserError(
            f"'{run}' holds a run on other images: {changes[0]}. Choose another output_dir, give it the "
            f"former images, or resume with these by train.accept_changes=true in this command."
        )
    return changes


def record_images(run: Path, names: Names) -> None:
    """Record the images that a run is trained on, unless that is recorded already.

    The names are in a separate file, which is needed only to name the first difference.
    """
    record = ImageRecord.of(names)
    if record != read_record(run):
        write_atomically(run / NAMES, gzip.compress(names.text, compresslevel=1, mtime=0))
        write_atomically(run / RECORD, json.dumps(record._asdict(), indent=2) + "\n")


def _difference(run: Path, recorded: ImageRecord, names: Names) -> str:
    if recorded.n_images == len(names):
        counts = f"as many, {len(names)}, but of other names or in another order"
    else:
        counts = f"{recorded.n_images} there and {len(names)} here"
    former = _former_names(run, recorded)
    if former is None:
        return counts
    first = _first_difference(former, names)
    shown = [f"'{printable(x[first])}'" if first < len(x) else "none" for x in (former, names)]
    return (
        f"{counts}; the first to differ is number {first + 1}, {shown[0]} there and {shown[1]} here"
    )


def _first_difference(former: Names, names: Names) -> int:
    """Return the index of the first name that differs, which may be one past the end of the shorter list."""
    texts = [np.frombuffer(x.text, np.uint8) for x in (former, names)]
    n = min(map(len, texts))
    differs = texts[0][:n] != texts[1][:n]
    position = int(differs.argmax()) if differs.any() else n
    return int(np.searchsorted(former.ends, position))


def _former_names(run: Path, record: ImageRecord) -> Names | None:
    """Return the names that belong to a record, or None if they are missing or damaged."""
    try:
        names = Names(gzip.decompress((run / NAMES).read_bytes()))
    except (OSError, EOFError, zlib.error):  # the record is valid without them
        return None
    return names if ImageRecord.of(names) == record else None
