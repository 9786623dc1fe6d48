"""What a run's evaluations say about one of its networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poa_plugin.evaluate.results import KnnRow, read_rows
from poa_plugin.evaluate.sweep_results import Sweep, read_sweep
from poa_plugin.evaluate.uncertainty import alike, standard_error


def recorded_results(folder: Path, network: str, branch: str, step: int) -> list[dict[str, Any]]:
    """Return the accuracies of one network; see `results_by_network`."""
    return results_by_network(folder, branch, step).get(network, [])


def results_by_network(folder: Path, branch: str, step: int) -> dict[str, list[dict[str, Any]]]:
    """Return the accuracies of a run's networks as they are at a step, from `knn.json` and `sweep.json`.

    Args:
        folder: `RUN/eval`; each file is read once.
        branch, step: what was evaluated; results of other steps are left out.

    Returns:
        For each network that has some a dict for each k and each set of images, with `k`, `top1` in percent,
        the command that it is `by`, and, where that is known, the `data` that it was measured on. Where the
        number of test images is known, also `n_test`, the `standard_error` of `top1` in points, the `best`
        network that the command evaluated at this k and its `best_top1`, and whether `top1` is
        `distinguishable_from_best`.

    Raises:
        UserError: a file is damaged.
    """
    by_network: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    sweep = read_sweep(folder)
    if sweep and (sweep.conditions.get("branch"), sweep.conditions.get("step")) == (branch, step):
        _add(by_network, _rows(sweep), "poa sweep")
    rows = [
        row
        for row in read_rows(folder)
        if (row.kind, row.branch, row.step) == ("trained", branch, step)
    ]
    _add(by_network, rows, "poa eval knn")
    return {name: [results[k] for k in sorted(results)] for name, results in by_network.items()}


def _add(
    by_network: dict[str, dict[tuple[int, str], dict[str, Any]]],
    rows: Sequence[KnnRow],
    command: str,
) -> None:
    """Add what a command's rows say, each in the place of what was said of the network at its k.

    Accuracies on other images, or under another protocol, stand beside each other.
    """
    best: dict[tuple[int, int, str], KnnRow] = {}
    for row in rows:
        key = (row.k, row.n_test, row.protocol)
        if key not in best or row.top1 > best[key].top1:
            best[key] = row
    for row in rows:
        result = {"k": row.k, "top1": row.top1, "by": command}
        if row.data:
            result["data"] = row.data
        if row.n_test:
            first = best[row.k, row.n_test, row.protocol]
            result |= {
                "n_test": row.n_test,
                "standard_error": standard_error(row.top1, row.n_test),
                "best": first.network,
                "best_top1": first.top1,
                "distinguishable_from_best": not alike(row.top1, first.top1, row.n_test),
            }
        by_network.setdefault(row.network, {})[row.k, row.protocol] = result


def _rows(sweep: Sweep) -> list[KnnRow]:
    protocol, data = (str(sweep.conditions.get(name, "")) for name in ("protocol", "data"))
    return [
        KnnRow(own.network, "trained", k, top1, n_test=sweep.n_test, protocol=protocol, data=data)
        for own in sweep.networks
        for k, top1 in own.top1.items()
    ]
