"""Networks as text tables that fit a terminal: a search space, an evaluation, a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from poa_plugin.elastic.subnet import SearchSpace
from poa_plugin.report.best import Best, best_of
from poa_plugin.runs.entries import Entry, Series, latency_text
from poa_plugin.runs.front import pareto_front
from poa_plugin.runs.uncertainty import MARK, legend, plus_minus
from poa_plugin.sizes import short


def space_table(space: SearchSpace, image_size: int | None = None) -> str:
    """Return a text table of a space: name, width, depth, parameters, FLOPs, further names."""
    size = image_size or space.image_size
    lines = [f"{'name':<14} {'width':>5} {'depth':>5} {'params':>8} {'FLOPs':>8}  also called"]
    for subnet in space:
        cost = space.cost(subnet, size)
        aliases = ", ".join(space.aliases_of(subnet))
        line = (
            f"{subnet.name:<14} {subnet.width:>5} {subnet.total_depth:>5} "
            f"{short(cost.params):>8} {short(cost.flops):>8}  {aliases}"
        )
        lines.append(line.rstrip())
    lines.append(f"{len(space)} networks; FLOPs are multiply-adds of one {size} x {size} image")
    return "\n".join(lines)


def results_table(entries: Sequence[Entry]) -> str:
    """Return a text table: one line for each network and k, trained beside untrained.

    An accuracy stands with its standard error. MARK stands beside a trained network that is not
    distinguishable from the best one at the same k.
    """
    n_test = max((n for entry in entries for n in entry.n_test.values()), default=0)
    wide = 10 if n_test else 6
    lines = [
        f"{'network':<22} {'params':>8} {'FLOPs':>8} {'k':>4} {'top-1':>{wide}} "
        f"{'  ' if n_test else ''}{'untrained':>{max(wide, 9)}} {'gain':>6}"
    ]
    for entry in entries:
        size = f"{short(entry.params):>8} {short(entry.flops):>8}"
        for k, value in sorted(entry.top1.items()):
            best = best_of(entries, k)
            mark = MARK if best and best.is_like(entry) else ""
            top1 = f"{plus_minus(value, entry.n_test.get(k, 0)):>{wide}} "
            top1 += f"{mark:<2}" if n_test else ""
            if k in entry.before:
                before = plus_minus(entry.before[k], entry.n_test_before.get(k, 0))
                top1 += f"{before:>{max(wide, 9)}} {value - entry.before[k]:+6.1f}"
            lines.append(f"{entry.label:<22} {size} {k:>4} {top1}".rstrip())
    if n_test:
        lines.append(legend("the best network at its k", n_test))
    return "\n".join(lines)


def sweep_table(series: Series) -> str:
    """Return the networks that no smaller one reaches in accuracy, and those with further names.

    A star marks the Pareto front of accuracy at the shown k against parameters, MARK what is not
    distinguishable from the most accurate network.
    """
    k, networks = series.shown_k, series.networks
    front = {entry.network for entry in pareto_front(networks, lambda entry: entry.params, k)}
    best = best_of(networks, k)
    like = {entry.network for entry in networks if best and best.is_like(entry)}
    shown = [entry for entry in networks if entry.network in front or entry.aliases]
    wide = max([6, *(len(_top1(entry, each)) for entry in shown for each in series.ks)])
    tops = " ".join(f"{f'k={each}':>{wide}}" for each in series.ks)
    ms = max([7, *(len(latency_text(entry)) for entry in shown)])
    lines = [f"   {'network':<14} {'params':>8} {'FLOPs':>8} {'ms':>{ms}} {tops}  also called"]
    for entry in sorted(shown, key=lambda entry: entry.params):
        marks = ("*" if entry.network in front else " ") + (MARK if entry.network in like else " ")
        tops = " ".join(f"{_top1(entry, each):>{wide}}" for each in series.ks)
        sizes = f"{short(entry.params):>8} {short(entry.flops):>8} {latency_text(entry):>{ms}}"
        aliases = ", ".join(entry.aliases)
        lines.append(f"{marks} {entry.network:<14} {sizes} {tops}  {aliases}".rstrip())
    lines.append(
        f"{len(shown)} of {len(networks)} networks; * no network with as few parameters is as "
        f"accurate at k = {k}"
    )
    return "\n".join(
        [*lines, *_notes_on_best(networks, best, front, like), *_notes_on_ms(networks)]
    )


def _top1(entry: Entry, k: int) -> str:
    return plus_minus(entry.top1[k], entry.n_test.get(k, 0)) if k in entry.top1 else "-"


def _notes_on_best(
    networks: Sequence[Entry], best: Best | None, front: set[str], like: set[str]
) -> list[str]:
    """Return the lines below the table that say what stands out from the best network."""
    if best is None or not best.n_test:
        return []
    name = best.entry.network
    notes = [legend(f"{name}, the most accurate", best.n_test)]
    if like:
        alike = [entry for entry in networks if entry.network in like]
        least = min(alike, key=lambda entry: entry.params)
        are = "network is" if len(like) == 1 else "networks are"
        notes.append(
            f"{len(like)} {are} not distinguishable from {name} at k = {best.k}, "
            f"{len(like & front)} of them marked *; the smallest is {least.network} with "
            f"{short(least.params)} parameters"
        )
    return notes


def _notes_on_ms(networks: Sequence[Entry]) -> list[str]:
    timed = [entry for entry in networks if entry.latency_ms is not None]
    notes = []
    if any(entry.latency_spread_ms is not None for entry in timed):
        notes.append("ms: the median of the rounds, half of which lie within the ± beside it")
    n_unreliable = sum(entry.usable_latency is None for entry in timed)
    if n_unreliable:
        notes.append(
            f"? the rounds disagree, for {n_unreliable} of {len(timed)} networks: run 'poa sweep' again "
            f"on a machine that does nothing else"
        )
    return notes
