"""Lists of image files: text with a path on each line, and perhaps a class after a tab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poa_plugin.data.names import Names
from poa_plugin.data.reading import read_errors
from poa_plugin.errors import UserError

BOM = b"\xef\xbb\xbf"


class ListedFiles(NamedTuple):
    """The contents of a list: N paths, (N,) indices into its classes (-1: none), and the classes."""

    files: Names
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: list[str]


def read_list(file: Path) -> ListedFiles:
    """Read a list of image files.

    Paths are taken byte for byte, so that files whose names are not UTF-8 can be listed.

    Raises:
        UserError: it cannot be read, or is not such a text.
    """
    with read_errors("list", file):
        content = file.read_bytes()
    if b"\0" in content:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        what = (
            "is UTF-16: save it as UTF-8"
            if utf16
            else "is not text: a list has a path on each line"
        )
        raise UserError(f"The list '{file}' cannot be read: it {what}.")
    classes: dict[bytes, int] = {}
    names, labels = [], []
    for line in content.removeprefix(BOM).splitlines():
        name, _, kind = line.partition(b"\t")
        name, kind = name.strip(), kind.strip()
        if name and not line.startswith(b"#"):
            names.append(name)
            labels.append(classes.setdefault(kind, len(classes)) if kind else -1)
    text = b"\0".join(names) + b"\0" if names else b""
    return ListedFiles(Names(text), np.array(labels, np.int64), [os.fsdecode(c) for c in classes])
