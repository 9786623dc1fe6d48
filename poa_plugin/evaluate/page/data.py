"""The numbers of a page, as the JSON that its script draws from."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from poa_plugin.evaluate.curves import kind_of, smoothed, summands
from poa_plugin.evaluate.record import Entry, RunRecord

MAX_POINTS = 400
"""Of a curve; a longer one is shown by the means of so many parts."""


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


def shown_k(ks: Sequence[int]) -> int | None:
    """Return the k that a page starts with: 20, or the nearest that was evaluated."""
    return min(ks, key=lambda k: abs(k - 20), default=None)


def widths_of(lines: Sequence[Line]) -> list[int]:
    """Return the widths of the runs' own networks, in increasing order."""
    own = [line.entry for line in lines if line.entry.kind in ("trained", "untrained")]
    return sorted({entry.width for entry in own if entry.width})


def page_data(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return everything that the script draws: rows as the table has them, losses, draws, colours."""
    lines = table_lines(records)
    return {
        "runs": [
            {"name": record.name, "losses": _losses(record), "draws": _draws(record)}
            for record in records
        ],
        "rows": [_row(line) for line in lines],
        "widths": widths_of(lines),
        "k": shown_k(all_ks(lines)),
        "viridis": [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, 33))],
    }


def as_json(data: Any) -> str:
    """Return JSON that may stand within a script element: it holds no `<`."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def width_colours(n_widths: int, dark: bool) -> list[str]:
    """Return a colour for each width: viridis without the end that the background swallows."""
    ends = (0.25, 0.97) if dark else (0.0, 0.85)
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(*ends, n_widths))]


def finite(number: float | None) -> float | None:
    """Return a number with six digits, and None in the place of what cannot be drawn."""
    return float(f"{number:.6g}") if number is not None and math.isfinite(number) else None


def _row(line: Line) -> dict[str, Any]:
    entry = line.entry
    return {
        "run": line.run,
        "label": entry.label,
        "network": entry.network,
        "kind": entry.kind,
        "aliases": list(entry.aliases),
        "width": entry.width,
        "depth": entry.depth,
        "params": entry.params,
        "flops": entry.flops,
        "latency": finite(entry.latency_ms),
        "top1": {str(k): finite(value) for k, value in entry.top1.items()},
        "before": {str(k): finite(value) for k, value in entry.before.items()},
    }


def _losses(record: RunRecord) -> list[dict[str, Any]]:
    """Return the curves of a run: the total loss, then its summands."""
    lines = [line for line in record.lines if line["loss"] is not None]
    if not lines:
        return []
    steps = np.array([line["step"] + 1 for line in lines])
    terms = summands(lines)
    kinds = sorted({kind_of(name) for name in terms})
    joins: dict[int, set[str]] = {}
    for name, values in terms.items():
        if min(values) > 0:
            joins.setdefault(min(values), set()).add(kind_of(name).replace("_", " "))
    total = np.array([line["loss"] for line in lines], dtype=float)
    curves = [_curve("total loss", steps, total, sorted(joins))]
    curves[0]["joins"] = [{"step": int(steps[i]), "names": sorted(joins[i])} for i in sorted(joins)]
    for name in sorted(terms):
        index = np.array(list(terms[name]))
        measured = np.array(list(terms[name].values()), dtype=float)
        curve = _curve(name.replace("_", " "), steps[index], measured)
        curve |= {"colour": kinds.index(kind_of(name)), "dashed": name.endswith("_elastic")}
        curves.append(curve)
    return curves


def _curve(name: str, steps: Any, values: Any, breaks: Sequence[int] = ()) -> dict[str, Any]:
    columns = {
        "steps": steps,
        "measured": values,
        "smooth": np.concatenate(smoothed(values, breaks)),
    }
    for key, column in columns.items():
        parts = np.array_split(column, MAX_POINTS) if len(column) > MAX_POINTS else column
        columns[key] = [finite(float(np.mean(part))) for part in parts]
    return {"name": name, **columns}


def _draws(record: RunRecord) -> list[dict[str, Any]]:
    """Return how often each network was the elastic student."""
    counts = Counter(name for line in record.lines for name in line.get("subnets") or ())
    known = {entry.network: entry for entry in record.entries}
    draws = []
    for name, count in counts.items():
        parsed = re.fullmatch(r"w(\d+)_d(\d+(?:-\d+)*)", name)
        if parsed:
            width, depth = int(parsed[1]), sum(map(int, parsed[2].split("-")))
        else:
            entry = known.get(name)
            width, depth = (entry.width or 0, entry.depth or 0) if entry else (0, 0)
        draws.append({"network": name, "width": width, "depth": depth, "count": count})
    return draws
