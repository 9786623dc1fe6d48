"""A page about one run, or several side by side: a file that asks nothing of the network."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.evaluate.page import build_page
from poa_plugin.evaluate.plots import (
    plot_accuracy,
    plot_losses,
    plot_runs_accuracy,
    plot_runs_losses,
    plot_sampling,
)
from poa_plugin.evaluate.record import RunRecord, read_record
from poa_plugin.evaluate.results import KnnRow
from poa_plugin.files import write_whole

PAGES = (".html", ".htm")


def write_report(*runs: Path, to: Path | None = None) -> Path:
    """Write a page about a run, or about several runs side by side.

    Args:
        runs: output folders of runs; what one does not hold yet is left out of the page.
        to: a file (`.html`), or a folder that gets `index.html` and the plots as PNG files. One run
            needs none: its page goes to `RUN/report/`.

    Returns:
        The page: one file, its pictures within it.

    Raises:
        UserError: a folder is not a run's, holds nothing to show, or a file in it is damaged; a run is
            given twice; or several runs are given and no place for their page.
    """
    runs = tuple(Path(run) for run in runs)
    to = _place(runs, to)
    records = _named_apart(runs, [read_record(run) for run in runs])
    pictures = _pictures(records)
    page = to
    if to.is_dir() or to.suffix.lower() not in PAGES:
        to.mkdir(parents=True, exist_ok=True)
        page = to / "index.html"
        for name, picture in pictures.items():
            write_whole(to / f"{name}.png", picture)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, build_page(records, pictures))
    return page


def _place(runs: Sequence[Path], to: Path | None) -> Path:
    if not runs:
        raise UserError("A page is about a run: give the output folder of one or more.")
    for folder, times in Counter(run.resolve() for run in runs).items():
        if times > 1:
            raise UserError(f"The run '{folder}' is given {times} times; a page shows it once.")
    if to is None and len(runs) > 1:
        raise UserError(
            f"A page about {len(runs)} runs belongs to none of them: say where it goes with "
            f"--to FOLDER or --to page.html."
        )
    to = Path(to) if to is not None else runs[0] / "report"
    if to.is_file() and to.suffix.lower() not in PAGES:
        raise UserError(
            f"'{to}' is a file; a page is a file that ends in .html, or goes into a folder."
        )
    return to


def _named_apart(runs: Sequence[Path], records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records with so much of their folders' paths in their names that no two are equal."""
    parts = [run.resolve().parts for run in runs]
    depth, names = 1, [record.name for record in records]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(own[-depth:]) for own in parts]
    return [replace(record, name=name) for record, name in zip(records, names, strict=True)]


def _pictures(records: Sequence[RunRecord]) -> dict[str, bytes]:
    """Return the plots for where no script runs, PNG files by name."""
    rows = {record.name: _knn_rows(record) for record in records}
    rows = {name: own for name, own in rows.items() if own}
    lines = {record.name: _finite(record) for record in records}
    lines = {name: own for name, own in lines.items() if own}
    draws = [line for record in records for line in record.lines if line.get("subnets")]
    alone = len(records) == 1
    found = {}
    if rows:
        [first, *_] = rows.values()
        found["accuracy"] = _png(plot_accuracy, first) if alone else _png(plot_runs_accuracy, rows)
    if lines:
        [own, *_] = lines.values()
        found["losses"] = _png(plot_losses, own) if alone else _png(plot_runs_losses, lines)
    if draws and alone:
        found["sampling"] = _png(plot_sampling, draws)
    return found


def _finite(record: RunRecord) -> list[dict[str, Any]]:
    return [line for line in record.lines if line["loss"] is not None]


def _png(plot: Callable[[Any, io.BytesIO], None], shown: Any) -> bytes:
    buffer = io.BytesIO()
    plot(shown, buffer)
    return buffer.getvalue()


def _knn_rows(record: RunRecord) -> list[KnnRow]:
    """Return the accuracies of a run's entries as rows, those before training among them."""
    return [
        KnnRow(
            network=entry.network,
            kind=kind,
            k=k,
            top1=top1,
            width=entry.width or 0,
            depth=entry.depth or 0,
            params=entry.params or 0,
            flops=entry.flops or 0,
        )
        for entry in record.entries
        for kind, accuracies in ((entry.kind, entry.top1), ("untrained", entry.before))
        for k, top1 in accuracies.items()
    ]
