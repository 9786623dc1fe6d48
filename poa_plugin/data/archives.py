"""Images in archives: WebDataset's tar shards and parquet files, by index.

A shard that is streamed through a shuffle buffer cannot be gone on with bit for bit; here every image
has a number, as if it were a file.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poa_plugin.data.datasets import EncodedImages, NoSplitError, Split
from poa_plugin.data.decode import BadImageError
from poa_plugin.data.endings import IMG_EXTENSIONS
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

OPEN_FILES = 256
"""Archives that a process keeps open."""


class Member(NamedTuple):
    """An image in a shard: from which byte, how long; its name, and its class if it has one."""

    offset: int
    size: int
    name: str
    label: int | None


@DATASETS.register_as("webdataset")
class WebDataset(EncodedImages):
    """Tar shards in WebDataset's layout: files `<key>.jpg` (or another image), `<key>.cls` beside it.

    Shards are taken in the sorted order of their names, samples in the shards' order. Tar headers are
    read once, when the data set is opened; images are read by their offsets. Compressed shards have none.
    `.cls` files hold a class's number. What stands between a key and an image's ending, such as in
    `<key>.mask.png`, says that it is something else. Of two images of one key the first is taken.

    Args:
        path: a folder, all of it for training unless the word `train` is in the names of some shards and
            `val`, `validation` or `test` in those of others; or, for training, a pattern such as
            `/data/train-*.tar` or `/data/train-{000000..000146}.tar`.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: there is no shard, no image in the shards, one is damaged, or some images have a class
            and others not.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        self.shards = split_files(path, split, ".tar")
        places: list[tuple[int, int, int]] = []
        self.names: list[str] = []
        labels: list[int] = []
        for number, shard in enumerate(self.shards):
            for member in _members(shard):
                places.append((number, member.offset, member.size))
                self.names.append(member.name)
                if member.label is not None:
                    labels.append(member.label)
        if not places:
            raise UserError(f"There are no images in the {len(self.shards)} shards of '{path}'.")
        if labels and len(labels) < len(places):
            raise UserError(
                f"{len(places) - len(labels)} of {len(places)} images in the shards of "
                f"'{path}' have no '.cls' file beside them: give all of them one, or none."
            )
        self.places = np.array(places, dtype=np.int64)
        self.labels = labels or None
        self.classes = [str(i) for i in range(max(labels) + 1)] if labels else []

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the shard and the file in it."""
        return f"{self.shards[self.places[index][0]].name}/{self.names[index]}"

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        shard, offset, size = map(int, self.places[index])
        descriptor = _opened(self.shards[shard], os.getpid()).fileno()
        content = os.pread(descriptor, size, offset)
        if len(content) < size:
            raise BadImageError(self.name(index), "truncated", "the shard ends before it does")
        return content


@DATASETS.register_as("parquet")
class Parquet(EncodedImages):
    """Parquet files with a column `image` of encoded images, and perhaps a column `label`.

    The column holds bytes, or Hugging Face's structs with `bytes` in them. Rows are in the order of
    the sorted files. An image costs the reading of its row group, of which each process keeps the last few:
    shuffled reading wants row groups of few images. Class names come from Hugging Face's metadata.

    Args:
        path: as for `WebDataset`, with `.parquet`.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: pyarrow is missing, there is no file, one is damaged, or has no such column.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        self.files = split_files(path, split, ".parquet")
        self.groups: list[tuple[int, int]] = []
        lengths: list[int] = []
        labels: list[int] = []
        for number, file in enumerate(self.files):
            opened = _parquet(file, os.getpid())
            names = opened.schema_arrow.names
            if "image" not in names:
                known = ", ".join(names)
                raise UserError(f"'{file}' has no column 'image'; its columns are {known}.")
            for group in range(opened.num_row_groups):
                self.groups.append((number, group))
                lengths.append(opened.metadata.row_group(group).num_rows)
            if "label" in names:
                labels += opened.read(columns=["label"])["label"].to_pylist()
        self.ends = list(accumulate(lengths))
        if not self.ends or not self.ends[-1]:
            raise UserError(f"There are no images in the {len(self.files)} files of '{path}'.")
        if any(isinstance(label, str) for label in labels):
            raise UserError(
                f"The column 'label' of '{path}' holds text: it must hold the numbers of classes, whose "
                f"names may stand in Hugging Face's metadata."
            )
        if labels and (len(labels) < len(self) or None in labels):
            raise UserError(f"Some images of '{path}' have a label and others not.")
        self.labels = labels or None
        self.classes = _class_names(self.files[0], labels)

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, index: int) -> str:
        """Return the file and the row group and row in it."""
        file, group, row = self._place(index)
        return f"{self.files[file].name}/{group}/{row}"

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        file, group, row = self._place(index)
        try:
            value = _row_group(self.files[file], group, os.getpid())[row].as_py()
        except (
            Exception
        ) as error:  # pyarrow's errors are of many kinds, OSError without a number among them
            if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                raise
            reason = f"its row group cannot be read ({str(error).splitlines()[0]})"
            raise BadImageError(self.name(index), "corrupt", reason) from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise BadImageError(self.name(index), "corrupt", "its row holds no bytes")
        return content

    def _place(self, index: int) -> tuple[int, int, int]:
        position = bisect_right(self.ends, index)
        before = self.ends[position - 1] if position else 0
        return (*self.groups[position], index - before)


def split_files(path: str | None, split: Split, ending: str) -> list[Path]:
    """Return the archives of a split, sorted by name; see `WebDataset`.

    Raises:
        UserError: there is none.
    """
    if path is None:
        raise UserError(f"Say where the {ending} files are: data.path=/some/folder.")
    given = Path(path)
    if given.is_dir():
        files = sorted(file for file in given.iterdir() if file.name.endswith(ending))
        training = [file for file in files if _words(file) & {"train"}]
        held_out = [file for file in files if _words(file) & {"val", "validation", "test"}]
        held_out = [file for file in held_out if file not in training]
        if training and held_out:
            return training if split == "train" else held_out
    else:
        found = [file for name in _expanded(given.name) for file in given.parent.glob(name)]
        files = sorted(set(found))
    if not files:
        raise UserError(f"There is no {ending} file at '{path}'.")
    if split == "test":
        raise NoSplitError(
            f"'{path}' has no images to test with: that takes a folder with the word 'train' in the names "
            f"of some of its {ending} files, and 'val' or 'test' in those of others."
        )
    return files


def _words(file: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", file.name.lower()))


def _expanded(pattern: str) -> list[str]:
    """Return the patterns that one with a range such as `{000..146}` stands for."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    numbers = range(int(found[1]), int(found[2]) + 1)
    names = [f"{i:0{len(found[1])}}" for i in numbers]
    start, end = found.span()
    return [one for name in names for one in _expanded(pattern[:start] + name + pattern[end:])]


def _members(shard: Path) -> Iterator[Member]:
    """Yield the images of a shard, each with the class that stands beside it."""
    images: dict[str, tarfile.TarInfo] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                folder, _, name = info.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if not info.isfile() or not stem:
                    continue
                if f".{kind.lower()}" in IMG_EXTENSIONS:
                    images.setdefault(f"{folder}/{stem}", info)
                elif kind == "cls":
                    opened = archive.extractfile(info)
                    classes[f"{folder}/{stem}"] = int(opened.read()) if opened else -1
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"The shard '{shard}' cannot be read: {error}.") from error
    for key, info in images.items():
        yield Member(info.offset_data, info.size, info.name, classes.get(key))


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, process: int) -> Any:
    """Return a shard that this process opened: forked workers share none."""
    return path.open("rb", buffering=0)


@lru_cache(maxsize=OPEN_FILES)
def _parquet(path: Path, process: int) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'poa-plugin[parquet]'.") from error
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"The file '{path}' cannot be read: {error}.") from error


@lru_cache(maxsize=4)
def _row_group(path: Path, group: int, process: int) -> Any:
    return _parquet(path, process).read_row_group(group, columns=["image"])["image"]


def _class_names(file: Path, labels: Sequence[int]) -> list[str]:
    """Return the names in Hugging Face's metadata, or numbers; none without labels."""
    if not labels:
        return []
    count = max(labels) + 1
    metadata = _parquet(file, os.getpid()).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = [str(name) for name in features["label"]["names"]]
    except (ValueError, KeyError, TypeError):
        names = []
    return names if len(names) >= count else [str(i) for i in range(count)]
