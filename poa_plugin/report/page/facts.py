"""What is known of each run, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from poa_plugin.report.best import best_of
from poa_plugin.runs.front import nearest_k
from poa_plugin.runs.record import RunRecord
from poa_plugin.runs.uncertainty import plus_minus

MISSING = "–"
MEASURED = "How the networks were measured"
CHECKSUMS = ("architecture", "images", "series", "weights")
SETTINGS = {
    "student.arch": "architecture",
    "meta_arch": "pre-training",
    "data.dataset": "data set",
}
"""Keys of the configuration that are facts of a run, and what they are called."""


def facts(record: RunRecord) -> dict[str, str]:
    """Return what is worth knowing of a run at a glance, by name."""
    shown = _trained(record) | _evaluated(record)
    named = {SETTINGS[key]: text for key, text in record.settings.items() if key in SETTINGS}
    return shown | named


def fact_list(record: RunRecord) -> str:
    """Return the facts of one run, and under which conditions its networks were measured, as HTML."""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts(record).items()
    )
    page = f'<dl class="facts">{tiles}</dl>' if tiles else ""
    if record.conditions:
        page += _fold(MEASURED, _grid(MEASURED, [], _beside([_conditions(record)])))
    return page


def facts_beside(records: Sequence[RunRecord]) -> str:
    """Return the facts of several runs, and how their networks were measured, a column each."""
    head = ["", *(record.name for record in records)]
    page = _grid("Facts", head, _beside([facts(record) for record in records]))
    if any(record.conditions for record in records):
        page += _fold(
            MEASURED, _grid(MEASURED, head, _beside([_conditions(record) for record in records]))
        )
    return page


def differences(records: Sequence[RunRecord]) -> str:
    """Return the keys of the configurations whose values differ, a column for each run."""
    rows = _beside([record.settings for record in records])
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return '<p class="note">No value differs.</p>'
    return _grid("Differences", ["key", *(record.name for record in records)], rows)


def configuration(record: RunRecord, title: str = "Configuration") -> str:
    """Return a run's configuration, folded away; nothing if there is none."""
    return _fold(title, f"<pre>{escape(record.config)}</pre>") if record.config else ""


def _trained(record: RunRecord) -> dict[str, str]:
    if not record.lines:
        return {}
    last = record.lines[-1]
    shown = {"steps": f"{last['step'] + 1:,}"}
    if "seconds" in last:
        shown["minutes"] = _amount(last["seconds"] / 60)
    if "images_per_second" in last:
        shown["images per second"] = _amount(last["images_per_second"])
    losses = [line["loss"] for line in record.lines if line["loss"] is not None]
    if losses:
        shown["loss, first and last"] = f"{losses[0]:.2f} → {losses[-1]:.2f}"
    ranges = record.skipped_ranges
    if ranges or "skipped_steps" in last:
        shown["skipped steps"] = f"{sum(count for _, _, count in ranges):,}"
    return shown


def _evaluated(record: RunRecord) -> dict[str, str]:
    n_networks = sum(entry.kind == "trained" for entry in record.entries)
    shown = {"networks": str(n_networks)} if n_networks else {}
    trained = [entry for entry in record.entries if entry.kind == "trained"]
    best = best_of(trained, nearest_k({k for entry in trained for k in entry.top1}))
    if best:
        top1 = plus_minus(best.top1, best.n_test)
        shown |= {f"best top-1, k = {best.k}": f"{top1}%", "best network": best.entry.network}
        like = [entry for entry in trained if best.is_like(entry)]
        if like:
            shown["not distinguishable from it"] = f"{len(like)} network{'s' * (len(like) > 1)}"
    return shown


def _conditions(record: RunRecord) -> dict[str, str]:
    return {
        key.replace("_", " "): _words(value)
        for key, value in record.conditions.items()
        if key not in CHECKSUMS
    }


def _beside(columns: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Return a row for each name: the name, and its value in every column."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [[name, *(column.get(name, MISSING) for column in columns)] for name in names]


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return MISSING if value is None else str(value)


def _fold(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head_row = f"<thead><tr>{top}</tr></thead>" if head else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}"><table class="plain">{head_row}'
        f"<tbody>{body}</tbody></table></div>"
    )
