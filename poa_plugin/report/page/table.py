"""The table of all networks, and the controls that choose which of them are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from poa_plugin.report.best import Best, best_of
from poa_plugin.report.page.data import Line, all_ks, ks_before, latency_text
from poa_plugin.runs.entries import OTHER, first_k
from poa_plugin.runs.record import RunRecord
from poa_plugin.runs.uncertainty import CLEAR, MARK, plus_minus
from poa_plugin.sizes import short

X_AXES = {"params": "parameters", "flops": "FLOPs", "latency": "latency"}


@dataclass(frozen=True)
class Column:
    """A column: the key by which the script knows it, its title, and the text of a line's cell."""

    key: str
    title: str
    cell: Callable[[Line], str]


def network_table(records: Sequence[RunRecord], lines: Sequence[Line]) -> str:
    """Return the table: a line for each network, which the script sorts and filters."""
    columns = list(_columns(records, lines))
    head = "".join(
        f'<th scope="col" data-key="{column.key}" aria-sort="none">{column.title}</th>'
        for column in columns
    )
    body = "\n".join(_tr(i, line, columns) for i, line in enumerate(lines))
    return _notes(lines) + (
        '<div class="scroll tall" id="networks" tabindex="0" role="region" aria-label="All networks">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def controls(lines: Sequence[Line]) -> str:
    """Return the switches of the plot; hidden until the script makes them work."""
    axes = [
        key
        for key, name in zip(X_AXES, ("params", "flops", "latency_ms"), strict=True)
        if any(getattr(line.entry, name) and line.entry.top1 for line in lines)
    ]
    choices = "".join(
        f'<label><input type="radio" name="x" value="{key}"{" checked" * (i == 0)}>'
        f"<span>{X_AXES[key]}</span></label>"
        for i, key in enumerate(axes)
    )
    against = f'<fieldset class="choice"><legend>against</legend>{choices}</fieldset>' * bool(axes)
    first = first_k(line.entry for line in lines)
    options = "".join(
        f'<option value="{k}"{" selected" * (k == first)}>{k}</option>' for k in all_ks(lines)
    )
    boxes = [("log", "logarithmic", True), ("front", "Pareto front only", False)]
    if any(line.entry.before or line.entry.kind in ("untrained", "pixels") for line in lines):
        boxes.append(("baselines", "before training and raw pixels", True))
    checks = "".join(
        f'<label><input type="checkbox" id="{name}"{" checked" * on}> {text}</label>'
        for name, text, on in boxes
    )
    chosen_k = f'<label class="k">k <select id="k">{options}</select></label>'
    return f'<div class="controls" hidden>{against}{chosen_k}{checks}</div>'


def search_box() -> str:
    """Return the box that filters table and points; hidden until the script makes it work."""
    return (
        '<div class="controls search" hidden><label for="filter">Filter</label>'
        '<input id="filter" type="search" autocomplete="off" spellcheck="false" '
        'placeholder="w384   params<=30M   top1>=70" aria-describedby="filter-help count">'
        '<output id="count"></output>'
        '<p id="filter-help">Words that a name holds, and limits: params, flops, latency, width, depth, '
        "top1 with &lt;, &lt;=, =, &gt;=, &gt;. All must hold. Bold with a bar: on the Pareto front.</p></div>"
    )


def _columns(records: Sequence[RunRecord], lines: Sequence[Line]) -> Iterator[Column]:
    yield Column("label", "network", _name_cell)
    if len(records) > 1:
        yield Column("run", "run", lambda line: escape(records[line.run].name))
    yield Column("width", "width", lambda line: str(line.entry.width or ""))
    yield Column("depth", "depth", lambda line: str(line.entry.depth or ""))
    yield Column("params", "parameters", lambda line: _short(line.entry.params))
    if any(line.entry.flops for line in lines):
        yield Column("flops", "FLOPs", lambda line: _short(line.entry.flops))
    if any(line.entry.latency_ms is not None for line in lines):
        yield Column("latency", "latency (ms)", _latency)
    for k in all_ks(lines):
        best = [best_of(record.entries, k) for record in records]
        yield Column(f"top1:{k}", f"top-1 (%)<br>k = {k}", _accuracies(k, best))
    for k in ks_before(lines):
        yield Column(f"before:{k}", f"untrained<br>k = {k}", _accuracies_before(k))


def _accuracies(k: int, best: Sequence[Best | None]) -> Callable[[Line], str]:
    """Return the cells of accuracies at a k, given the best network of each run."""

    def cell(line: Line) -> str:
        best_of_run = best[line.run]
        like = best_of_run is not None and best_of_run.is_like(line.entry)
        return _accuracy(line.entry.top1, line.entry.n_test, k) + f" {MARK}" * like

    return cell


def _accuracies_before(k: int) -> Callable[[Line], str]:
    return lambda line: _accuracy(line.entry.before, line.entry.n_test_before, k)


def _accuracy(accuracies: Mapping[int, float], n_test: Mapping[int, int], k: int) -> str:
    top1 = accuracies.get(k, math.nan)
    return _apart(plus_minus(top1, n_test.get(k, 0))) if math.isfinite(top1) else ""


def _latency(line: Line) -> str:
    text = latency_text(line.entry)
    return _apart(text) + (" ?" if text and not line.entry.latency_is_reliable else "")


def _apart(text: str) -> str:
    """Set what stands after `±` apart from the number before it."""
    number, sign, error = text.partition(" ±")
    return f'{number} <span class="error">±{error}</span>' if sign else text


def _notes(lines: Sequence[Line]) -> str:
    """Return what the signs beside the numbers say, as far as they occur."""
    notes = []
    counts = sorted({n for line in lines for n in line.entry.n_test.values()})
    if counts:
        images = " or ".join(f"{count:,}" for count in counts)
        notes.append(f"± beside an accuracy is one standard error on {images} test images.")
        notes.append(
            f"{MARK} is not distinguishable from the best network of its run: the difference is below "
            f"{CLEAR:g} standard errors."
        )
    n_apart = sum(line.entry.kind == OTHER for line in lines)
    if n_apart:
        was = "network was" if n_apart == 1 else "networks were"
        notes.append(
            f"{n_apart} {was} evaluated on other images, in another way, or of another branch or step, as the "
            f"name says: drawn hollow, and compared with none."
        )
    timed = [line.entry for line in lines if line.entry.latency_ms is not None]
    if any(entry.latency_spread_ms is not None for entry in timed):
        notes.append("Half of the rounds of a latency lie within its ±.")
    n_unreliable = sum(not entry.latency_is_reliable for entry in timed)
    if n_unreliable:
        are = "latency is" if n_unreliable == 1 else "latencies are"
        notes.append(
            f"{n_unreliable} {are} unreliable (?): drawn hollow, and left out of Pareto front and filter."
        )
    return f'<p class="note signs">{" ".join(notes)}</p>' if notes else ""


def _tr(number: int, line: Line, columns: Sequence[Column]) -> str:
    name, *cells = (column.cell(line) for column in columns)
    texts = "".join(
        f'<td class="text">{cell}</td>' if column.key == "run" else f"<td>{cell}</td>"
        for column, cell in zip(columns[1:], cells, strict=True)
    )
    return f'<tr data-row="{number}"><th scope="row">{name}</th>{texts}</tr>'


def _name_cell(line: Line) -> str:
    aliases = "".join(f" <small>{escape(alias)}</small>" for alias in line.entry.aliases)
    return escape(line.entry.label) + aliases


def _short(number: int | None) -> str:
    return short(number) if number else ""
