"""What a run's evaluations say about one of its networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poa_plugin.evaluate.results import KnnRow, read_rows
from poa_plugin.evaluate.sweep_results import Sweep, read_sweep
from poa_plugin.evaluate.uncertainty import alike, standard_error


def recorded_results(folder: Path, network: str, branch: str, step: int) -> list[dict[str, Any]]:
    """Return the accuracies of a network as it is at a step, from `knn.json` and `sweep.json`.

    Args:
        folder: `RUN/eval`.
        network, branch, step: what was evaluated; results of other steps are left out.

    Returns:
        A dict for each k, with `k`, `top1` in percent, and the command that it is `by`. Where the number of
        test images is known, also `n_test`, the `standard_error` of `top1` in points, the `best` network
        that the command evaluated at this k and its `best_top1`, and whether `top1` is
        `distinguishable_from_best`.

    Raises:
        UserError: a file is damaged.
    """
    found: dict[int, dict[str, Any]] = {}
    sweep = read_sweep(folder)
    if sweep and (sweep.conditions.get("branch"), sweep.conditions.get("step")) == (branch, step):
        found |= _records(_rows(sweep), network, "poa sweep")
    rows = [
        row
        for row in read_rows(folder)
        if (row.kind, row.branch, row.step) == ("trained", branch, step)
    ]
    found |= _records(rows, network, "poa eval knn")
    return [found[k] for k in sorted(found)]


def _records(rows: Sequence[KnnRow], network: str, command: str) -> dict[int, dict[str, Any]]:
    """Return what rows say about a network, by k."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row.network != network:
            continue
        found[row.k] = {"k": row.k, "top1": row.top1, "by": command}
        if row.n_test:
            others = [other for other in rows if (other.k, other.n_test) == (row.k, row.n_test)]
            best = max(others, key=lambda other: other.top1)
            found[row.k] |= {
                "n_test": row.n_test,
                "standard_error": standard_error(row.top1, row.n_test),
                "best": best.network,
                "best_top1": best.top1,
                "distinguishable_from_best": not alike(row.top1, best.top1, row.n_test),
            }
    return found


def _rows(sweep: Sweep) -> list[KnnRow]:
    return [
        KnnRow(own.network, "trained", k, top1, n_test=sweep.n_test)
        for own in sweep.networks
        for k, top1 in own.top1.items()
    ]
