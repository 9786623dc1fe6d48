"""What a run's evaluations say about one of its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poa_plugin.evaluate.results import read_rows
from poa_plugin.evaluate.sweep_results import read_sweep


def recorded_results(folder: Path, network: str, branch: str, step: int) -> list[dict[str, Any]]:
    """Return the accuracies of a network as it is at a step, from `knn.json` and `sweep.json`.

    Args:
        folder: `RUN/eval`.
        network, branch, step: what was evaluated; results of other steps are left out.

    Returns:
        A dict for each k, with `k`, `top1` in percent, and the command that it is `by`.

    Raises:
        UserError: a file is damaged.
    """
    found: dict[int, dict[str, Any]] = {}
    sweep = read_sweep(folder)
    if sweep and (sweep.conditions.get("branch"), sweep.conditions.get("step")) == (branch, step):
        for own in sweep.networks:
            if own.network == network:
                found = {
                    k: {"k": k, "top1": top1, "by": "poa sweep"} for k, top1 in own.top1.items()
                }
    for row in read_rows(folder):
        if (row.network, row.kind, row.branch, row.step) == (network, "trained", branch, step):
            found[row.k] = {"k": row.k, "top1": row.top1, "by": "poa eval knn"}
    return [found[k] for k in sorted(found)]
