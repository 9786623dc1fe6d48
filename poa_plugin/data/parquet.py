"""Images in parquet files, by index."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from poa_plugin.data.datasets import EncodedImages, Split
from poa_plugin.data.decode import BadImageError
from poa_plugin.data.labels import Array, labels_and_classes
from poa_plugin.data.names import Names, joined
from poa_plugin.data.patterns import split_files, unambiguous
from poa_plugin.data.reading import reason_of
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

OPEN_FILES = 256
"""Files that a process holds open."""


@DATASETS.register_as("parquet")
class Parquet(EncodedImages):
    """Parquet files with a column `image` of encoded images, and perhaps a column `label`.

    The column holds bytes, or Hugging Face's structs with `bytes` in them. Rows are in the order of
    the sorted files. Reading an image reads its row group, and each process caches the last few:
    shuffled reading is fast with row groups of few images. Class names come from Hugging Face's metadata.

    Args:
        path: as for `WebDataset`, with `.parquet`.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: pyarrow is missing, there is no file, one is damaged, or has no such column.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        archives = split_files(path, split, ".parquet")
        self.files, self.left_out, self.notes = archives.files, archives.left_out, archives.notes
        self.shown = unambiguous(self.files)
        groups: list[tuple[int, int]] = []
        lengths: list[int] = []
        labels = []
        for number, file in enumerate(self.files):
            opened = _opened(file)
            names = opened.schema_arrow.names
            if "image" not in names:
                columns = ", ".join(names)
                raise UserError(f"'{file}' has no column 'image'; its columns are {columns}.")
            for group in range(opened.num_row_groups):
                groups.append((number, group))
                lengths.append(opened.metadata.row_group(group).num_rows)
            labels.append(_label_column(file, opened))
        self.groups, self.ends = np.array(groups, np.int64).reshape(-1, 2), np.cumsum(lengths)
        if not len(self):
            raise UserError(f"There are no images in the {len(self.files)} files of '{path}'.")
        self.labels, numbers = labels_and_classes(np.concatenate(labels), path, "label")
        self.classes = _class_names(self.files[0], numbers)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def all_names(self) -> Names:
        """See `EncodedImages.all_names`."""
        starts = np.diff(self.ends, prepend=0).tolist()
        texts = []
        for (file, group), rows in zip(self.groups.tolist(), starts, strict=True):
            prefix = f"{self.shown[file]}/{group}/"
            texts.append(joined([f"{prefix}{row}" for row in range(rows)]))
        return Names(b"".join(texts))

    def name(self, index: int) -> str:
        """Return the file and the row group and row in it."""
        file, group, row = self._place(index)
        return f"{self.shown[file]}/{group}/{row}"

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        file, group, row = self._place(index)
        try:
            value = _row_group(self.files[file], group, os.getpid())[row].as_py()
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # pyarrow's are of many kinds, OSError without a number among them
            if getattr(error, "errno", None) is not None:
                _parquet.cache_clear()  # a descriptor that a file server has forgotten never works again
                raise
            reason = f"its row group cannot be read ({_reason(error)})"
            raise BadImageError(self.name(index), "corrupt", reason) from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise BadImageError(self.name(index), "corrupt", "its row holds no bytes")
        return content

    def _place(self, index: int) -> tuple[int, int, int]:
        position = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[position - 1]) if position else 0
        file, group = map(int, self.groups[position])
        return file, group, index - before


@lru_cache(maxsize=OPEN_FILES)
def _parquet(path: Path, process: int) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'poa-plugin[parquet]'.") from error
    return parquet.ParquetFile(path)


def _opened(path: Path) -> Any:
    """Return an opened file, or say why it cannot be used."""
    try:
        return _parquet(path, os.getpid())
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The file '{path}' cannot be read: {_reason(error)}.") from error


@lru_cache(maxsize=4)
def _row_group(path: Path, group: int, process: int) -> Any:
    return _parquet(path, process).read_row_group(group, columns=["image"])["image"]


def _label_column(file: Path, opened: Any) -> Array:
    """Return the labels of a parquet file, -1 for an image without one."""
    rows = opened.metadata.num_rows
    if "label" not in opened.schema_arrow.names:
        return np.full(rows, -1)
    import pyarrow

    kind = opened.schema_arrow.field("label").type
    if pyarrow.types.is_null(kind):
        return np.full(rows, -1)
    if not pyarrow.types.is_integer(kind):
        shown = "text" if pyarrow.types.is_string(kind) else str(kind)
        raise UserError(
            f"The column 'label' of '{file}' holds {shown}: it must hold the numbers of classes, whose names "
            f"may stand in Hugging Face's metadata."
        )
    try:
        column = opened.read(columns=["label"])["label"]
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"The column 'label' of '{file}' cannot be read: {_reason(error)}."
        ) from error
    return np.asarray(column.cast(pyarrow.int64()).fill_null(-1).to_numpy(), np.int64)


def _class_names(file: Path, numbers: list[str]) -> list[str]:
    """Return the names in Hugging Face's metadata, or the numbers of classes; none without labels."""
    metadata = _parquet(file, os.getpid()).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = [str(name) for name in features["label"]["names"]]
    except (ValueError, KeyError, TypeError):
        names = []
    return names if numbers and len(names) >= len(numbers) else numbers


def _reason(error: Exception) -> str:
    """Return half a sentence on why a parquet file cannot be read; pyarrow's own messages are long."""
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of(error)
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
