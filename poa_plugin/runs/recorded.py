"""What a run's evaluations say about one of its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poa_plugin.runs.results import Row
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.uncertainty import alike


def results_by_network(folder: Path, branch: str, step: int) -> dict[str, list[dict[str, Any]]]:
    """Return the accuracies of a run's networks as they are at a step.

    Args:
        folder: `RUN/eval`; its file is read once.
        branch, step: what was evaluated; results of other steps are left out.

    Returns:
        For each network that has some a dict for each k and each set of images, with `k`, `top1` in percent,
        the command that it is `by`, and, where that is recorded, the `data` that it was measured on. Where the
        number of test images is recorded, also `n_test`, the `standard_error` of `top1` in points, the `best`
        network that was evaluated on these images at this k and its `best_top1`, and whether `top1` is
        `distinguishable_from_best`.

    Raises:
        UserError: a file is damaged.
    """
    recorded = read_results(folder).select(kind="trained", branch=branch, step=step)
    newest = {(row.network, row.k, row.series): row for row in recorded.rows if row.k is not None}
    best: dict[tuple[int | None, str], Row] = {}
    for row in newest.values():
        key = (row.k, row.series)
        best[key] = max(best.get(key, row), row, key=lambda row: row.value)
    by_network: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(newest.values(), key=lambda row: (row.k, row.series)):
        by_network.setdefault(row.network, []).append(_result(row, best[row.k, row.series]))
    return by_network


def _result(row: Row, best: Row) -> dict[str, Any]:
    result: dict[str, Any] = {"k": row.k, "top1": row.value, "by": row.by}
    if row.data:
        result["data"] = row.data
    if row.n:
        result |= {
            "n_test": row.n,
            "standard_error": row.standard_error,
            "best": best.network,
            "best_top1": best.value,
            "distinguishable_from_best": not alike(row.value, best.value, min(row.n, best.n)),
        }
    return result
