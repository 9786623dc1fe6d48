"""Results that were never measured, written as evaluations write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poa_plugin.runs.entries import Entry
from poa_plugin.runs.former_results import BY_KNN, BY_SWEEP
from poa_plugin.runs.results import Network, Row
from poa_plugin.runs.results_file import add_results
from poa_plugin.runs.uncertainty import standard_error


def accuracy(
    network: str,
    top1: float,
    k: int = 20,
    kind: str = "trained",
    branch: str = "",
    step: int = 0,
    n: int = 0,
    data: str = "",
    by: str = BY_KNN,
    **conditions: Any,
) -> Row:
    """The accuracy of a network, such as `series="a"`."""
    error = standard_error(top1, n) if n else None
    labels = (network, kind, branch, step, "knn", data, f"top1_k{k}", top1, error, n)
    return Row(*labels, conditions={**conditions, "by": by})


def latency(network: str, **metrics: float | None) -> list[Row]:
    """The latency of a network, `latency_ms` and `latency_spread_ms`."""
    return [
        Row(network, "trained", "", 0, "latency", "", name, value, conditions={"by": BY_SWEEP})
        for name, value in metrics.items()
        if value is not None
    ]


def size_of(entry: Entry) -> Network:
    sizes = (entry.width, entry.depth, entry.params, entry.flops)
    return Network(entry.network, *sizes, aliases=tuple(entry.aliases))


def write_sweep(folder: Path, entries: Sequence[Entry], n: int = 0, **labels: Any) -> None:
    """Write entries as the results of a sweep; labels are those of `accuracy`."""
    rows = []
    for entry in entries:
        for k, top1 in entry.top1.items():
            rows.append(accuracy(entry.network, top1, k, n=n, by=BY_SWEEP, **labels))
        times = {"latency_ms": entry.latency_ms, "latency_spread_ms": entry.latency_spread_ms}
        rows += latency(entry.network, **times)
    add_results(folder, rows, map(size_of, entries))
