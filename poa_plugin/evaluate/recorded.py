"""What a run's evaluations say about one of its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poa_plugin.evaluate.results import read_rows
from poa_plugin.evaluate.sweep_results import read_sweep


def recorded_results(folder: Path, network: str, branch: str, step: int) -> list[dict[str, Any]]:
    """Return the accuracies of one network; see `results_by_network`."""
    return results_by_network(folder, branch, step).get(network, [])


def results_by_network(folder: Path, branch: str, step: int) -> dict[str, list[dict[str, Any]]]:
    """Return the accuracies of a run's networks as they are at a step, from `knn.json` and `sweep.json`.

    Args:
        folder: `RUN/eval`; each file is read once.
        branch, step: what was evaluated; results of other steps are left out.

    Returns:
        For each network that has some a dict for each k, with `k`, `top1` in percent, and the command that it
        is `by`.

    Raises:
        UserError: a file is damaged.
    """
    by_network: dict[str, dict[int, dict[str, Any]]] = {}
    sweep = read_sweep(folder)
    if sweep and (sweep.conditions.get("branch"), sweep.conditions.get("step")) == (branch, step):
        for own in sweep.networks:
            by_network[own.network] = {
                k: {"k": k, "top1": top1, "by": "poa sweep"} for k, top1 in own.top1.items()
            }
    for row in read_rows(folder):
        if (row.kind, row.branch, row.step) == ("trained", branch, step):
            results = by_network.setdefault(row.network, {})
            results[row.k] = {"k": row.k, "top1": row.top1, "by": "poa eval knn"}
    return {name: [own[k] for k in sorted(own)] for name, own in by_network.items()}
