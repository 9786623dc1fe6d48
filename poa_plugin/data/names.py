"""The names and labels of a data set's images in memory that worker processes share.

A list of a million strings is copied into every worker process, page by page: reading a Python object
writes its reference count. One `bytes` object and an array of numbers have no such counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np


class Names(Sequence[str]):
    """N names, read like a list of `str`.

    Names are file names: bytes that are not UTF-8 become surrogates (`os.fsdecode`).

    Args:
        text: the N names as bytes, a NUL after each.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        buffer = np.frombuffer(text, np.uint8)
        self.ends = np.flatnonzero(buffer == 0)

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Return the names of an iterable. A NUL within a name becomes a space."""
        return cls(joined(names))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} names, and none of number {index}.")
        index = int(index) % len(self)
        start = int(self.ends[index - 1]) + 1 if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])])


class Integers(Sequence[int]):
    """N integers in one array, read like a list of `int`.

    Args:
        array: (N,), of integers; it becomes int64.
    """

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array, np.int64)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Integers: ...
    def __getitem__(self, index: int | slice) -> int | Integers:
        selected = self.array[index]
        return Integers(selected) if isinstance(index, slice) else int(selected)

    def __iter__(self) -> Iterator[int]:
        return iter(self.array.tolist())

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray[Any, Any]:
        """Return what `numpy.asarray` makes of it."""
        return np.array(self.array, *arguments, **keywords)

    def __eq__(self, other: object) -> bool:
        """Tell whether the numbers are those of another sequence."""
        if not isinstance(other, (Integers, Sequence, np.ndarray)):
            return NotImplemented
        return len(self) == len(other) and bool(np.array_equal(self.array, np.asarray(other)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Integers({self.array!r})"


def joined(names: Iterable[str]) -> bytes:
    """Return names as `Names` takes them: as bytes, a NUL after each."""
    text = "".join([f"{name.replace(NUL, ' ')}{NUL}" for name in names])
    return text.encode("utf-8", "surrogateescape")


def prefixed(prefix: str, text: bytes) -> bytes:
    """Return names, as `Names` takes them, with a prefix before each."""
    before = os.fsencode(prefix)
    return (before + text[:-1].replace(b"\0", b"\0" + before) + b"\0") if text else b""


def printable(name: str) -> str:
    """Return a name on one line of printable characters: others are escaped as in Python."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


NUL = "\0"
