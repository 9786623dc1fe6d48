"""Images in tar shards, in WebDataset's layout, by index.

A stream through a shuffle buffer cannot be resumed bit for bit; here every image has an index, as if it
were a file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from poa_plugin.data.datasets import EncodedImages, Split
from poa_plugin.data.decode import BadImageError
from poa_plugin.data.labels import labels_and_classes
from poa_plugin.data.names import Names, prefixed
from poa_plugin.data.patterns import split_files, unambiguous
from poa_plugin.data.tar_index import ShardIndex, shard_index
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

OPEN_FILES = 256
"""Archives that a process holds open."""
PATIENCE = 5.0
"""Seconds after which a message says that headers are being read."""


@DATASETS.register_as("webdataset")
class WebDataset(EncodedImages):
    """Tar shards in WebDataset's layout: files `<key>.jpg` (or another image), `<key>.cls` beside it.

    Shards are taken in the sorted order of their names, samples in the shards' order. Tar headers are
    read once and cached (see `shard_index`); images are read by their offsets. Compressed shards have none.
    `.cls` files hold a class's number. A further part between a key and an image's ending, as in
    `<key>.mask.png`, marks something other than an image. Of two images of one key the first is used. Of a
    shard that ends early, the intact images are used.

    Args:
        path: a folder, a shard, or a pattern such as `/data/*.tar` or `/data/train-{000000..000146}.tar`; names
            decide which shards are for training (see `split_files`).
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: there is no shard, one that the pattern names is missing, there is no image in the shards,
            one is not a tar file, or only some images have a class.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        archives = split_files(path, split, ".tar")
        self.shards, self.left_out, self.notes = archives.files, archives.left_out, archives.notes
        indices = _shard_indices(self.shards)
        shown = unambiguous(self.shards)
        self.images = Names(
            b"".join(
                prefixed(f"{n}/", index.names) for n, index in zip(shown, indices, strict=True)
            )
        )
        self.places = np.concatenate(
            [
                np.stack([np.full(len(i.offsets), number), i.offsets, i.sizes], axis=1)
                for number, i in enumerate(indices)
            ]
        )
        for name, index in zip(shown, indices, strict=True):
            self.left_out.update(index.left_out, f"{name}/")
            if index.damage:
                self.damaged.append(f"the shard '{name}' is damaged: {index.damage}")
        if not len(self.images):
            reasons = "".join(
                f" {text}." for text in (*self.damaged[:1], str(self.left_out)) if text
            )
            raise UserError(
                f"There are no images in the {len(self.shards)} shards of '{path}'.{reasons}"
            )
        empty = [
            n for n, i in zip(shown, indices, strict=True) if not len(i.offsets) and not i.damage
        ]
        if empty:
            self.notes.append(
                f"{len(empty)} of {len(shown)} shards of '{path}' have no image in them, such as '{empty[0]}'"
            )
        labels = np.concatenate([index.labels for index in indices])
        self.labels, self.classes = labels_and_classes(labels, path, "'.cls' file beside them")

    def __len__(self) -> int:
        return len(self.images)

    def all_names(self) -> Names:
        """See `EncodedImages.all_names`."""
        return self.images

    def name(self, index: int) -> str:
        """Return the shard and the file in it."""
        return self.images[index]

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        shard, offset, size = map(int, self.places[index])
        try:
            content = os.pread(_opened(self.shards[shard], os.getpid()).fileno(), size, offset)
        except OSError:
            _opened.cache_clear()  # a descriptor that a file server has forgotten never works again
            raise
        if len(content) < size:
            raise BadImageError(self.name(index), "truncated", "the shard ends within it")
        return content


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, process: int) -> Any:
    """Return a shard that this process opened: forked workers share no descriptors."""
    return path.open("rb", buffering=0)


def _shard_indices(shards: Sequence[Path]) -> list[ShardIndex]:
    """Return what is in each shard, with a message if that takes long."""
    began, announced, indices = time.monotonic(), False, []
    for shard in shards:
        indices.append(shard_index(shard))
        if not announced and time.monotonic() - began > PATIENCE:
            announced = True
            print(
                f"Reading the headers of {len(shards)} shards, which are cached for the next start ...",
                file=sys.stderr,
                flush=True,
            )
    return indices
