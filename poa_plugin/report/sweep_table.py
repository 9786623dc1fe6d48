"""A sweep as a text table that fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from poa_plugin.runs.front import latency_text, most_accurate, pareto_front, shown_k, usable_latency
from poa_plugin.runs.results import short
from poa_plugin.runs.sweep_results import NetworkResult, Sweep
from poa_plugin.runs.uncertainty import MARK, alike, legend, plus_minus


def sweep_table(sweep: Sweep) -> str:
    """Return the networks that no smaller one reaches in accuracy, and those with further names.

    A star marks the Pareto front of accuracy at `shown_k` against parameters, MARK what is not
    distinguishable from the most accurate network.
    """
    k = shown_k(sweep)
    front = {own.network for own in pareto_front(sweep.networks, lambda own: own.params, k)}
    best = most_accurate(sweep.networks, k)
    same = like_best(sweep, best, k)
    shown = [own for own in sweep.networks if own.network in front or own.aliases]
    wide = max([6, *(len(_top1(own, sweep, each)) for own in shown for each in sweep.ks)])
    tops = " ".join(f"{f'k={each}':>{wide}}" for each in sweep.ks)
    ms = max([7, *(len(latency_text(own)) for own in shown)])
    lines = [f"   {'network':<14} {'params':>8} {'FLOPs':>8} {'ms':>{ms}} {tops}  also called"]
    for own in sorted(shown, key=lambda own: own.params):
        marks = ("*" if own.network in front else " ") + (MARK if own.network in same else " ")
        tops = " ".join(f"{_top1(own, sweep, each):>{wide}}" for each in sweep.ks)
        sizes = f"{short(own.params):>8} {short(own.flops):>8} {latency_text(own):>{ms}}"
        lines.append(f"{marks} {own.network:<14} {sizes} {tops}  {', '.join(own.aliases)}".rstrip())
    return "\n".join([*lines, *_notes(sweep, k, len(shown), front, best, same)])


def like_best(sweep: Sweep, best: NetworkResult | None, k: int) -> set[str]:
    """Return the names of the networks that are not distinguishable from the best one, without its own."""
    return {
        own.network
        for own in sweep.networks
        if best is not None
        and own is not best
        and k in own.top1
        and alike(own.top1[k], best.top1[k], sweep.n_test)
    }


def _top1(network: NetworkResult, sweep: Sweep, k: int) -> str:
    return plus_minus(network.top1[k], sweep.n_test) if k in network.top1 else "-"


def _notes(
    sweep: Sweep,
    k: int,
    n_shown: int,
    front: set[str],
    best: NetworkResult | None,
    same: set[str],
) -> Sequence[str]:
    """Return the lines below the table: what its marks say."""
    notes = [
        f"{n_shown} of {len(sweep.networks)} networks; * no network with as few parameters is as "
        f"accurate at k = {k}"
    ]
    if best is not None and sweep.n_test:
        notes.append(legend(f"{best.network}, the most accurate", sweep.n_test))
        if same:
            least = min(
                (own for own in sweep.networks if own.network in same), key=lambda own: own.params
            )
            are = "network is" if len(same) == 1 else "networks are"
            notes.append(
                f"{len(same)} {are} not distinguishable from {best.network} at k = {k}, "
                f"{len(same & front)} of them marked *; the smallest is {least.network} with "
                f"{short(least.params)} parameters"
            )
    timed = [own for own in sweep.networks if own.latency_ms is not None]
    if any(own.latency_spread_ms is not None for own in timed):
        notes.append("ms: the median of the rounds, half of which lie within the ± beside it")
    n_unreliable = sum(usable_latency(own) is None for own in timed)
    if n_unreliable:
        notes.append(
            f"? the rounds disagree, for {n_unreliable} of {len(timed)} networks: run 'poa sweep' again "
            f"on a machine that does nothing else"
        )
    return notes
