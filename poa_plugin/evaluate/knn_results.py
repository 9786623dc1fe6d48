"""Rows of `poa eval knn` on the disk, those of other images or another temperature kept apart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poa_plugin.evaluate.conditions import conditions_name
from poa_plugin.evaluate.results import KnnRow, merge_rows, read_rows, write_rows
from poa_plugin.files import disk_errors

PERIOD = 10.0
"""Seconds after which rows are written while others are evaluated."""

GOES_ON = "Rows that were written before stand; mend that, and give the same command again."


class KnnResults:
    """The rows under one set of conditions, in `RUN/eval/knn/<name>/`; the newest ones also in `RUN/eval`.

    Rows are added within its context; they are written now and then, and at its end, whatever ends it.
    Where `RUN/eval/knn.json` was removed, rows start anew.

    Args:
        folder: `RUN/eval`.
        conditions: JSON values; rows under others stay where they are.
        adopt: whether rows of a former version, which wrote no conditions, are under these.

    Raises:
        UserError: what lies there is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any], adopt: bool) -> None:
        self.folder, self.added = folder, list[KnnRow]()
        self._written = time.monotonic()
        self.kept = folder / "knn" / conditions_name(conditions)
        newest = read_rows(folder)
        self.rows = read_rows(self.kept) if newest else []
        if newest and not (folder / "knn").is_dir():
            if adopt:
                self.rows = newest
            else:
                former = folder / "knn/former"
                with disk_errors(folder, GOES_ON):
                    write_rows(former, newest)
                print(f"The rows of other images stay in '{former}'.", flush=True)

    def add(self, rows: Sequence[KnnRow]) -> None:
        """Add rows, in the place of those of the same network, kind and k."""
        self.added += rows
        if time.monotonic() - self._written >= PERIOD:
            self._write()

    def __enter__(self) -> KnnResults:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was added."""
        if self.added:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self.rows = merge_rows(self.rows, self.added)
        with disk_errors(self.folder, GOES_ON):
            write_rows(self.kept, self.rows)
            write_rows(self.folder, self.rows)
