"""The text of `poa pick`: the network, why it was picked, and which smaller ones are as good."""

from __future__ import annotations

from poa_plugin.pick.choice import Limits, chosen_k, fitting_networks, unreliable
from poa_plugin.runs.entries import Entry, Series, latency_text
from poa_plugin.runs.uncertainty import CLEAR, alike, plus_minus
from poa_plugin.sizes import short


def explain(series: Series, limits: Limits, network: Entry, k: int | None = None) -> str:
    """Return a paragraph about a picked network.

    Args:
        series, limits, k: what it was picked by.
        network: what `pick` returned.
    """
    shown = chosen_k(series, k)
    fitting = fitting_networks(series, limits, shown)
    sentences = [f"{describe(network, series.n_test)}.", _why(series, limits, len(fitting), shown)]
    if series.n_test:
        sentences.append(f"± is one standard error on {series.n_test:,} test images.")
        sentences.append(_as_good(series, fitting, network, shown))
    sentences.append(unreliable(series, limits))
    return " ".join(filter(None, sentences))


def describe(network: Entry, n_test: int = 0) -> str:
    """Return a network's names, sizes and accuracies, these with standard errors if `n_test` is recorded."""
    sizes = [f"{short(network.params)} parameters", f"{short(network.flops)} FLOPs"]
    if network.latency_ms is not None:
        sizes.append(latency_text(network, " ms"))
    top1 = ", ".join(
        f"{plus_minus(value, n_test)} (k = {k})" for k, value in sorted(network.top1.items())
    )
    names = f" ({', '.join(network.aliases)})" if network.aliases else ""
    return f"{network.network}{names}: {', '.join(sizes)}; top-1 {top1}"


def _why(series: Series, limits: Limits, n_fitting: int, k: int) -> str:
    """Say what the network is the most accurate of."""
    allowed = []
    if limits.params is not None:
        allowed.append(f"{short(limits.params)} parameters")
    if limits.flops is not None:
        allowed.append(f"{short(limits.flops)} FLOPs")
    if limits.latency_ms is not None:
        allowed.append(f"{limits.latency_ms:g} ms")
    *most, last = allowed or [""]
    within = f" with at most {', '.join(most)}{' and ' * bool(most)}{last}" if allowed else ""
    if n_fitting == 1:
        return f"It is the only one of {len(series.networks)} networks{within}."
    return f"It is the most accurate at k = {k} of the {n_fitting} networks{within}."


def _as_good(series: Series, fitting: list[Entry], network: Entry, k: int) -> str:
    """Say which of the fitting networks that are smaller are not distinguishable from a network."""
    smaller = [entry for entry in fitting if entry.params < network.params]
    same = [entry for entry in smaller if alike(entry.top1[k], network.top1[k], series.n_test)]
    if not same:
        return "No smaller one is as accurate within that uncertainty." if smaller else ""
    least = min(same, key=lambda entry: (entry.params, -entry.top1[k]))
    which = f"{least.network} with {short(least.params)} parameters"
    accuracy = plus_minus(least.top1[k], series.n_test)
    apart = f"the difference is below {CLEAR:g} standard errors"
    if len(same) == 1:
        return f"{which} ({accuracy}) is not distinguishable from it: {apart}."
    return (
        f"{len(same)} smaller ones are not distinguishable from it ({apart}); the smallest of them is "
        f"{which} ({accuracy})."
    )
