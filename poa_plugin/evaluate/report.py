"""A page about one run, with its plots: a folder that needs no server and asks nothing of the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.evaluate.plots import plot_accuracy, plot_losses, plot_sampling
from poa_plugin.evaluate.results import KnnRow, beside_untrained, read_rows, short

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #dddddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181c; --line: #3a3d42; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; font-size: 0.85rem; }
"""


def write_report(run: Path) -> Path:
    """Write plots and a page about a run into `RUN/report/`.

    Args:
        run: a run's output folder; what it does not hold yet is left out of the page.

    Returns:
        The page, `RUN/report/index.html`: one file, its pictures within it.

    Raises:
        UserError: the folder is not a run's, holds nothing to show, or a file in it is damaged.
    """
    run = Path(run)
    config = run / "config.yaml"
    if not any(file.is_file() for file in (config, run / "metrics.jsonl", run / "eval/knn.json")):
        raise UserError(
            f"'{run}' is not the output folder of a run: there is no config.yaml, no "
            f"metrics.jsonl and no eval/knn.json."
        )
    lines, rows = read_metrics(run / "metrics.jsonl"), read_rows(run / "eval")
    if not lines and not rows:
        raise UserError(f"'{run}' has nothing to show yet: no metrics and no evaluation.")
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    sections = []
    if rows:
        plot_accuracy(rows, folder / "accuracy.png")
        picture = _picture(folder / "accuracy.png", "k-NN accuracy against parameters")
        sections.append(f"<h2>Accuracy</h2>{picture}{_table(rows)}")
    if lines:
        plot_losses(lines, folder / "losses.png")
        picture = _picture(folder / "losses.png", "loss and its terms over steps")
        sections.append(f"<h2>Training</h2><p>{_summary(lines)}</p>{picture}")
    if any(line.get("subnets") for line in lines):
        plot_sampling(lines, folder / "sampling.png")
        sections.append(_picture(folder / "sampling.png", "how often each network was drawn"))
    if config.is_file():
        text = escape(config.read_text(encoding="utf-8", errors="replace"))
        sections.append(f"<details><summary>Configuration</summary><pre>{text}</pre></details>")
    page = folder / "index.html"
    page.write_text(_page(run.resolve().name, sections), encoding="utf-8")
    return page


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; none if there is no file.

    A last line that is cut off, as a run that was killed leaves it, is left out.

    Raises:
        UserError: another line is damaged, or has no step, loss or terms.
    """
    if not file.is_file():
        return []
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(_line(text))
        except ValueError as error:
            if number < len(texts):
                raise UserError(f"Line {number} of '{file}' cannot be read: {error}.") from error
    return lines


def _line(text: str) -> dict[str, Any]:
    line = json.loads(text)
    missing = {"step", "loss", "terms"} - set(line if isinstance(line, dict) else ())
    if missing:
        raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
    return dict(line)


def _summary(lines: Sequence[dict[str, Any]]) -> str:
    first, last = lines[0], lines[-1]
    words = [f"{last['step'] + 1} steps"]
    if "seconds" in last:
        words.append(f"{last['seconds'] / 60:.1f} minutes")
    words.append(f"loss {first['loss']:.3f} at first and {last['loss']:.3f} at the end")
    if "images_per_second" in last:
        words.append(f"{last['images_per_second']:.1f} images per second")
    return ", ".join(words) + "."


def _table(rows: Sequence[KnnRow]) -> str:
    names = ("network", "parameters", "FLOPs", "k", "top-1 (%)", "before training")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = []
    for name, row, start in beside_untrained(rows):
        cells = [
            name,
            short(row.params),
            short(row.flops),
            str(row.k),
            f"{row.top1:.1f}",
            "" if start is None else f"{start:.1f}",
        ]
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f'<div class="table"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _picture(file: Path, text: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{data}"></p>'


def _page(title: str, sections: Sequence[str]) -> str:
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>"
        + "\n".join(sections)
        + "</body></html>\n"
    )
