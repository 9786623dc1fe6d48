"""Images in archives: WebDataset's tar shards and parquet files, by index.

A shard that is streamed through a shuffle buffer cannot be gone on with bit for bit; here every image
has a number, as if it were a file.
"""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from poa_plugin.data.datasets import EncodedImages, Split
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

OPEN_FILES = 256
"""Archives that a process keeps open."""


class Member(NamedTuple):
    """Where an image lies: which shard, from which byte, how long; its key, and its class if it has one."""

    shard: int
    offset: int
    size: int
    key: str
    label: int | None


@DATASETS.register_as("webdataset")
class WebDataset(EncodedImages):
    """Tar shards in WebDataset's layout: files `<key>.jpg` (or another image), `<key>.cls` beside it.

    Shards are taken in the sorted order of their names, samples in the shards' order. Tar headers are
    read once, when the data set is opened; images are read by their offsets. Compressed shards have none.
    `.cls` files hold a class's number.

    Args:
        path: a folder, whose `*train*.tar` and `*val*.tar` (or `*test*.tar`) are the splits where it has
            both and which is all for training otherwise; or a pattern such as
            `/data/train-*.tar`, for training.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: there is no shard, no image in the shards, one is damaged, or some images have a class
            and others not.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        self.shards = split_files(path, split, ".tar")
        self.members = [
            member for i, shard in enumerate(self.shards) for member in _members(shard, i)
        ]
        if not self.members:
            raise UserError(f"There are no images in the {len(self.shards)} shards of '{path}'.")
        labels = [member.label for member in self.members if member.label is not None]
        if labels and len(labels) < len(self.members):
            raise UserError(
                f"{len(self.members) - len(labels)} of {len(self.members)} images in the shards of "
                f"'{path}' have no '.cls' file beside them: give all of them one, or none."
            )
        self.labels = labels or None
        self.classes = [str(i) for i in range(max(labels) + 1)] if labels else []

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        """Return the shard and the file in it."""
        member = self.members[index]
        return f"{self.shards[member.shard].name}/{member.key}"

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        member = self.members[index]
        descriptor = _descriptor(self.shards[member.shard], os.getpid())
        content = os.pread(descriptor, member.size, member.offset)
        if len(content) < member.size:
            raise OSError(5, "the shard ends before it")
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
        value = _row_group(self.files[file], group, os.getpid())[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise OSError(5, "its row holds no bytes")
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
        held_out = [f for f in files if "val" in f.name or "test" in f.name]
        training = [f for f in files if "train" in f.name]
        if training and held_out:
            return training if split == "train" else held_out
    elif given.is_file():
        files = [given]
    else:
        folder, pattern = given.parent, given.name
        files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not files:
        raise UserError(f"There is no {ending} file at '{path}'.")
    if split == "test":
        raise UserError(
            f"'{path}' has no images to test with: that takes a folder with 'train' in the names of "
            f"some of its {ending} files, and 'val' or 'test' in those of others."
        )
    return files


def _members(shard: Path, number: int) -> Iterator[Member]:
    """Yield the images of a shard, each with the class that stands beside it."""
    images: dict[str, tarfile.TarInfo] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                folder, _, name = info.name.rpartition("/")
                key = f"{folder}/{name.split('.')[0]}"
                if not info.isfile() or name.startswith("."):
                    continue
                if name.lower().endswith(IMG_EXTENSIONS):
                    images[key] = info
                elif name.endswith(".cls"):
                    opened = archive.extractfile(info)
                    classes[key] = int(opened.read()) if opened else -1
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"The shard '{shard}' cannot be read: {error}.") from error
    for key, info in images.items():
        yield Member(number, info.offset_data, info.size, info.name, classes.get(key))


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, process: int) -> Any:
    return path.open("rb", buffering=0)


def _descriptor(path: Path, process: int) -> int:
    """Return a descriptor of an archive that this process opened: forked workers share no position."""
    return int(_opened(path, process).fileno())


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
    import json

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
