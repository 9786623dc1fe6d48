"""A page about one run, or several side by side: a file that makes no web requests."""

from __future__ import annotations

import errno
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.files import flush
from poa_plugin.folders import write_folder
from poa_plugin.report.accuracy_plots import plot_accuracy, plot_runs_accuracy
from poa_plugin.report.page import build_page
from poa_plugin.report.plots import plot_losses, plot_runs_losses, plot_sampling
from poa_plugin.runs.record import RunRecord, printable, read_record

PAGES = (".html", ".htm")


def write_report(*runs: Path, to: Path | None = None, results: Path | None = None) -> Path:
    """Write a page about a run, or about several runs side by side.

    Args:
        runs: output folders of runs; what one does not hold yet is left out of the page.
        to: a file (`.html`), or a folder that gets `index.html` and the plots as PNG files. One run
            needs none: its page goes to `RUN/report/`.
        results: where the results of a single run lie, if not in `RUN/eval`.

    Returns:
        The page: one file, its pictures within it.

    Raises:
        UserError: a folder is not a run's, holds nothing to show, or a file in it is damaged; a run is
            given twice; or several runs are given and no place for their page.
        OSError: the page cannot be written; what was there stays as it was.
    """
    runs = tuple(Path(run) for run in runs)
    to = _place(runs, to)
    records = _named_apart(runs, [read_record(run, results) for run in runs])
    pictures = _pictures(records)
    html = build_page(records, pictures).encode("utf-8")
    if not to.is_dir() and to.suffix.lower() in PAGES:
        to.parent.mkdir(parents=True, exist_ok=True)
        _write_together(to.parent, {to.name: html})
        return to
    files = {**{f"{name}.png": picture for name, picture in pictures.items()}, "index.html": html}
    if to.is_dir():
        _write_together(to, files)
    else:
        with write_folder(to) as folder:
            _write_together(folder, files)
    return to / "index.html"


def _write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, the last name last, or leave all as they were if one cannot be written."""
    partial = {name: folder / f".{name}.partial" for name in files}
    try:
        for name, content in files.items():
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
            partial[name].write_bytes(content)
            flush(partial[name])
        for name in files:
            partial[name].replace(folder / name)
    finally:
        for unfinished in partial.values():
            unfinished.unlink(missing_ok=True)


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
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        depth += 1
        names = [printable("/".join(path[-depth:])) for path in parts]
    if len(set(names)) < len(names):  # they differ in bytes that are no text
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return [replace(record, name=name) for record, name in zip(records, names, strict=True)]


def _pictures(records: Sequence[RunRecord]) -> dict[str, bytes]:
    """Return the plots for where no script runs, PNG files by name."""
    alone = len(records) == 1
    pictures = {}
    if any(entry.top1 for record in records for entry in record.entries):
        plot = (plot_accuracy, records[0]) if alone else (plot_runs_accuracy, records)
        pictures["accuracy"] = _png(*plot)
    if any(line["loss"] is not None for record in records for line in record.lines):
        plot = (plot_losses, records[0]) if alone else (plot_runs_losses, records)
        pictures["losses"] = _png(*plot)
    draws = [line for record in records for line in record.lines if line.get("subnets")]
    if draws and alone:
        pictures["sampling"] = _png(plot_sampling, draws)
    return pictures


def _png(plot: Callable[[Any, io.BytesIO], None], shown: Any) -> bytes:
    buffer = io.BytesIO()
    plot(shown, buffer)
    return buffer.getvalue()
