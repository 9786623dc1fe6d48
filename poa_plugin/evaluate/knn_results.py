"""Rows of `poa eval knn` on the disk, those under other conditions kept apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from poa_plugin.evaluate.conditions import (
    accuracy_conditions,
    baseline_conditions,
    conditions_name,
    data_words,
    image_conditions,
)
from poa_plugin.evaluate.results import KnnRow, merge_rows, read_rows, write_rows
from poa_plugin.evaluate.splits import Splits
from poa_plugin.extract import Run
from poa_plugin.files import disk_errors

PERIOD = 10.0
"""Seconds after which rows are written while others are evaluated."""

GOES_ON = "Rows that were written before stand; mend that, and give the same command again."


class KnnResults:
    """The rows of a branch of a run at its step, in `FOLDER/knn/<name>/`; the newest ones also in FOLDER.

    Trained networks have one name for each set of conditions, weights and branch among them; what they are
    compared with has another, so that it stays when the run is trained on. Rows are added within its
    context; they are written now and then, and at its end, whatever ends it. Where `FOLDER/knn.json` was
    removed, rows start anew.

    Args:
        folder: `RUN/eval`, or where the results of a run go that may not be written to.
        run: an opened run.
        branch: `teacher` or `student`.
        splits: of its data.
        temperature: of the votes.
        adopt: whether rows of a former version, which wrote no conditions, are on these images.

    Raises:
        UserError: what lies there is damaged, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        run: Run,
        branch: str,
        splits: Splits,
        temperature: float,
        adopt: bool,
    ) -> None:
        self.folder, self.added = folder, list[KnnRow]()
        self._written = time.monotonic()
        images = image_conditions(run.config, splits, temperature)
        self.protocol = conditions_name(images)
        self.data = data_words(run.config, temperature)
        self.trained = folder / "knn" / conditions_name(accuracy_conditions(run, branch, images))
        self.others = folder / "knn" / conditions_name(baseline_conditions(run.config, images))
        newest, is_former = read_rows(folder), not (folder / "knn").is_dir()
        self.rows = [*read_rows(self.trained), *read_rows(self.others)] if newest else []
        if newest and is_former:
            self._adopt(newest if adopt else [], newest, (branch, run.step))

    def add(self, rows: Sequence[KnnRow]) -> None:
        """Add rows, in the place of those of the same network, kind and k."""
        self.added += self._described(rows)
        if time.monotonic() - self._written >= PERIOD:
            self._write()

    def __enter__(self) -> KnnResults:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was added."""
        if self.added:
            self._write()

    def _adopt(
        self, usable: Sequence[KnnRow], newest: Sequence[KnnRow], state: tuple[str, int]
    ) -> None:
        """Take over what a former version wrote, and set all of it aside if some is of other conditions."""
        same = [
            row
            for row in usable
            if row.kind != "trained" or not row.branch or (row.branch, row.step) == state
        ]
        self.rows = self._described(same)
        if len(same) < len(newest):
            former = self.folder / "knn/former"
            with disk_errors(self.folder, GOES_ON):
                write_rows(former, newest)
            what = "branches or steps" if usable else "images"
            print(f"The rows of other {what} stay in '{former}'.", flush=True)

    def _described(self, rows: Sequence[KnnRow]) -> list[KnnRow]:
        return [replace(row, protocol=self.protocol, data=self.data) for row in rows]

    def _write(self) -> None:
        self._written = time.monotonic()
        self.rows = merge_rows(self.rows, self.added)
        trained = [row for row in self.rows if row.kind == "trained"]
        others = [row for row in self.rows if row.kind != "trained"]
        with disk_errors(self.folder, GOES_ON):
            for folder, rows in (
                (self.trained, trained),
                (self.others, others),
                (self.folder, self.rows),
            ):
                if rows:
                    write_rows(folder, rows)
