"""A sweep as a text table that fits a terminal."""

from __future__ import annotations

from poa_plugin.evaluate.pick import pareto_front, shown_k
from poa_plugin.evaluate.results import short
from poa_plugin.evaluate.sweep_results import Sweep


def sweep_table(sweep: Sweep) -> str:
    """Return the networks that no smaller one reaches in accuracy, and those with further names.

    A star marks the Pareto front of accuracy at `shown_k` against parameters.
    """
    k = shown_k(sweep)
    front = {own.network for own in pareto_front(sweep.networks, lambda own: own.params, k)}
    tops = " ".join(f"{f'k={each}':>6}" for each in sweep.ks)
    lines = [f"  {'network':<14} {'params':>8} {'FLOPs':>8} {'ms':>7} {tops}  also called"]
    for own in sorted(sweep.networks, key=lambda own: own.params):
        if own.network in front or own.aliases:
            latency = "-" if own.latency_ms is None else f"{own.latency_ms:.3g}"
            star = "*" if own.network in front else " "
            tops = " ".join(f"{own.top1[each]:6.1f}" for each in sweep.ks)
            sizes = f"{short(own.params):>8} {short(own.flops):>8} {latency:>7}"
            line = f"{star} {own.network:<14} {sizes} {tops}  {', '.join(own.aliases)}"
            lines.append(line.rstrip())
    lines.append(
        f"{len(lines) - 1} of {len(sweep.networks)} networks; * no network with as few parameters is as "
        f"accurate at k = {k}"
    )
    return "\n".join(lines)
