"""Features of many networks in half precision, in memory or in files."""

from __future__ import annotations

import errno
import fcntl
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.files import disk_errors

ENDING = ".float16"


class FeatureStore:
    """Features of one split for the networks of one width, added batch by batch.

    They are kept at unit length, which is all that cosines see: half precision cannot overflow then.
    A file is only ever appended to, so that what a process had written when it was killed is resumed.

    Args:
        widths: the number of channels of each network's features, by its name.
        split: `train` or `test`, a part of the files' names.
        folder: for the files, `SPLIT_NAME.float16`; None keeps the features in memory.
    """

    def __init__(self, widths: Mapping[str, int], split: str, folder: Path | None) -> None:
        self.widths, self.split, self.folder = dict(widths), split, folder
        self._parts: dict[str, list[Tensor]] = {name: [] for name in widths}

    def resume(self, batch: int) -> int:
        """Return how many images every network has features of; what goes beyond them is dropped.

        Args:
            batch: of images at a time; the count is cut to whole batches, so that each is the same
                whether or not the work was interrupted.
        """
        if self.folder is None:
            return 0
        counts = [self._size(name) // (2 * width) for name, width in self.widths.items()]
        done = min(counts) // batch * batch
        for name, width in self.widths.items():
            if self._size(name):
                with self._file(name).open("r+b") as file:
                    file.truncate(done * 2 * width)
        return done

    def append(self, name: str, features: Tensor) -> None:
        """Add a network's features of the next batch, (B, D).

        Raises:
            UserError: the disk is full, or may not be written to.
        """
        unit = F.normalize(features.float(), dim=1).to("cpu", torch.float16)
        if self.folder is None:
            self._parts[name].append(unit)
            return
        with disk_errors(self.folder), self._file(name).open("ab") as file:
            file.write(unit.contiguous().numpy().tobytes())

    def read(self, name: str) -> Tensor:
        """Return a network's features of all images, (N, D) float16; files are mapped into memory."""
        if self.folder is None:
            if len(self._parts[name]) > 1:
                self._parts[name] = [torch.cat(self._parts[name])]
            return self._parts[name][0]
        mapped = np.memmap(self._file(name), np.float16, mode="c")
        return torch.from_numpy(mapped).view(-1, self.widths[name])

    def drop(self, name: str) -> None:
        """Forget a network's features."""
        self._parts[name] = []
        if self.folder is not None:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.split}_{name}{ENDING}"

    def _size(self, name: str) -> int:
        return self._file(name).stat().st_size if self._file(name).is_file() else 0


@contextmanager
def features_folder(parent: Path) -> Iterator[Path]:
    """Give a folder for features that no other process uses meanwhile.

    It is the first that is free: one that a killed process leaves is taken, and its features are used.
    """
    for number in itertools.count():
        folder = parent / str(number)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as is_free:
            if is_free:
                yield folder
                return


def remove_leftovers(parent: Path, names: Sequence[str]) -> None:
    """Remove features of finished networks, which a killed process has left."""
    for folder in sorted(parent.glob("*")):
        with _locked(folder) as is_free:
            for name in names if is_free else ():
                for file in folder.glob(f"*_{name}{ENDING}"):
                    file.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes, until this one leaves the context or ends.

    Yields whether it is locked now: False if another process has it.
    """
    with disk_errors(folder):
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks cannot tell of other processes: there are taken to be none.
            yield error.errno not in (errno.EAGAIN, errno.EACCES)
        else:
            yield True
