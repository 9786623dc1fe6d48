"""The numbers of a page, as the JSON that its script draws from."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poa_plugin.report.best import best_of
from poa_plugin.report.colors import text_on, viridis
from poa_plugin.runs.curves import FROM_THE_START, Curve, Losses
from poa_plugin.runs.entries import Entry, first_k
from poa_plugin.runs.record import RunRecord
from poa_plugin.runs.uncertainty import MARK, milliseconds, standard_error


@dataclass(frozen=True)
class Line:
    """A line of the table: an entry and the number of its run."""

    run: int
    entry: Entry


def table_lines(records: Sequence[RunRecord]) -> list[Line]:
    """Return the lines of the table of all runs, in the order of the runs and their search spaces."""
    return [Line(i, entry) for i, record in enumerate(records) for entry in record.entries]


def all_ks(lines: Sequence[Line]) -> list[int]:
    """Return every k for which a line has an accuracy, in increasing order."""
    return sorted({k for line in lines for k in line.entry.top1})


def ks_before(lines: Sequence[Line]) -> list[int]:
    """Return every k for which a line has an accuracy before training, in increasing order."""
    return sorted({k for line in lines for k in line.entry.before})


def widths_of(lines: Sequence[Line]) -> list[int]:
    """Return the widths of the runs' own networks, in increasing order."""
    networks = [line.entry for line in lines if line.entry.kind in ("trained", "untrained")]
    return sorted({entry.width for entry in networks if entry.width})


def page_data(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return everything that the script draws: rows as the table has them, losses, draws, colors."""
    lines = table_lines(records)
    losses = [record.losses for record in records]
    compared = any(each and each.from_the_start for each in losses)
    colors = viridis(33)
    return {
        "runs": [
            {
                "name": record.name,
                "losses": _losses(curves, compared),
                "skipped": [
                    {"first": first, "last": last, "count": count}
                    for first, last, count in record.skipped_ranges
                ],
                "draws": _draws(record),
                "best": _best(record, lines),
            }
            for record, curves in zip(records, losses, strict=True)
        ],
        "rows": [_row(line) for line in lines],
        "widths": widths_of(lines),
        "k": first_k(line.entry for line in lines),
        "colors": colors,
        "texts": [text_on(color) for color in colors],
        "mark": MARK,
    }


def as_json(data: Any) -> str:
    """Return JSON that may stand within a script element: it holds no `<`."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def finite(number: float | None) -> float | None:
    """Return a number with six digits, and None in the place of what cannot be drawn."""
    return float(f"{number:.6g}") if number is not None and math.isfinite(number) else None


def exact(number: float | None) -> float | None:
    """Return a number as it is, so that a Pareto front is the same here and in the script, or None."""
    return number if number is not None and math.isfinite(number) else None


def latency_text(entry: Entry) -> str:
    """Return an entry's latency in milliseconds with its spread."""
    if entry.latency_ms is None or not math.isfinite(entry.latency_ms):
        return ""
    return milliseconds(entry.latency_ms, entry.latency_spread_ms)


def errors(accuracies: Mapping[int, float], n_test: Mapping[int, int]) -> dict[str, float]:
    """Return the standard error of each accuracy whose number of test images is known."""
    return {
        str(k): round(standard_error(top1, n_test[k]), 4)
        for k, top1 in accuracies.items()
        if k in n_test and math.isfinite(top1)
    }


def _row(line: Line) -> dict[str, Any]:
    entry = line.entry
    return {
        "run": line.run,
        "label": entry.label,
        "network": entry.network,
        "kind": entry.kind,
        "aliases": list(entry.aliases),
        **{name: getattr(entry, name) or None for name in ("width", "depth", "params", "flops")},
        "latency": exact(entry.latency_ms),
        "latencyText": latency_text(entry),
        "reliable": entry.latency_is_reliable,
        "top1": {str(k): exact(value) for k, value in entry.top1.items()},
        "before": {str(k): exact(value) for k, value in entry.before.items()},
        "errors": errors(entry.top1, entry.n_test),
        "errorsBefore": errors(entry.before, entry.n_test_before),
    }


def _best(record: RunRecord, lines: Sequence[Line]) -> dict[str, Any]:
    """Return, by k, the row of a run's best network, and which rows are not distinguishable from it."""
    numbers = {id(line.entry): i for i, line in enumerate(lines)}
    by_k = {}
    for k in sorted({k for entry in record.entries for k in entry.top1}):
        best = best_of(record.entries, k)
        if best is not None:
            like = [numbers[id(entry)] for entry in record.entries if best.is_like(entry)]
            row = numbers[id(best.entry)]
            lowest = exact(best.lowest)
            by_k[str(k)] = {"row": row, "lowest": lowest, "nTest": best.n_test, "like": like}
    return by_k


def _losses(losses: Losses | None, compared: bool) -> list[dict[str, Any]]:
    """Return the curves of a run as the script draws them: the total, its terms, those from the start.

    Args:
        losses: of the run.
        compared: whether a run of the page has terms that join, so that all have the last curve.
    """
    if losses is None:
        return []
    kinds = sorted({curve.kind for curve in losses.terms})
    total = _curve(losses.total)
    total["joins"] = [{"step": step, "names": list(names)} for step, names in losses.joins]
    curves = [total]
    for term in losses.terms:
        color = {"color": kinds.index(term.kind), "dashed": term.elastic}
        curves.append(_curve(term) | {"term": True} | color)
    if compared:
        start = losses.from_the_start or (None if losses.joins else losses.total)
        if start is not None:
            curves.append(_curve(start) | {"name": FROM_THE_START})
    return curves


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "name": curve.name,
        "steps": [int(step) for step in curve.steps],
        "measured": [finite(float(number)) for number in curve.measured],
        "smooth": [finite(float(number)) for number in curve.smooth],
        "breaks": list(curve.breaks),
    }


def _draws(record: RunRecord) -> list[dict[str, Any]]:
    """Return how often each network was the elastic student."""
    counts = Counter(name for line in record.lines for name in line.get("subnets") or ())
    entries = {entry.network: entry for entry in record.entries}
    draws = []
    for name, count in counts.items():
        parsed = re.fullmatch(r"w(\d+)_d(\d+(?:-\d+)*)", name)
        if parsed:
            width, depth = int(parsed[1]), sum(map(int, parsed[2].split("-")))
        else:
            entry = entries.get(name)
            width, depth = (entry.width, entry.depth) if entry else (0, 0)
        draws.append({"network": name, "width": width, "depth": depth, "count": count})
    return draws
