"""The text of `poa pick`: the network, why it was picked, and which smaller ones are as good."""

from __future__ import annotations

from poa_plugin.pick.choice import Limits, chosen_k, fitting_networks, unreliable
from poa_plugin.runs.front import latency_text
from poa_plugin.runs.results import short
from poa_plugin.runs.sweep_results import NetworkResult, Sweep
from poa_plugin.runs.uncertainty import CLEAR, alike, plus_minus


def explain(sweep: Sweep, limits: Limits, network: NetworkResult, k: int | None = None) -> str:
    """Return a paragraph about a picked network.

    Args:
        sweep, limits, k: what it was picked by.
        network: what `pick` returned.
    """
    shown = chosen_k(sweep, k)
    fitting = fitting_networks(sweep, limits, shown)
    sentences = [f"{describe(network, sweep.n_test)}.", _why(sweep, limits, len(fitting), shown)]
    if sweep.n_test:
        sentences.append(f"± is one standard error on {sweep.n_test:,} test images.")
        sentences.append(_as_good(sweep, fitting, network, shown))
    sentences.append(unreliable(sweep, limits))
    return " ".join(filter(None, sentences))


def describe(network: NetworkResult, n_test: int = 0) -> str:
    """Return a network's names, sizes and accuracies, these with their standard errors if `n_test` is known."""
    words = [f"{short(network.params)} parameters", f"{short(network.flops)} FLOPs"]
    if network.latency_ms is not None:
        words.append(latency_text(network, " ms"))
    top1 = ", ".join(
        f"{plus_minus(value, n_test)} (k = {k})" for k, value in sorted(network.top1.items())
    )
    names = f" ({', '.join(network.aliases)})" if network.aliases else ""
    return f"{network.network}{names}: {', '.join(words)}; top-1 {top1}"


def _why(sweep: Sweep, limits: Limits, n_fitting: int, k: int) -> str:
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
        return f"It is the only one of {len(sweep.networks)} networks{within}."
    return f"It is the most accurate at k = {k} of the {n_fitting} networks{within}."


def _as_good(sweep: Sweep, fitting: list[NetworkResult], network: NetworkResult, k: int) -> str:
    """Say which of the fitting networks that are smaller cannot be told from a network."""
    smaller = [own for own in fitting if own.params < network.params]
    same = [own for own in smaller if alike(own.top1[k], network.top1[k], sweep.n_test)]
    if not same:
        return "No smaller one is as accurate within that uncertainty." if smaller else ""
    least = min(same, key=lambda own: (own.params, -own.top1[k]))
    which = f"{least.network} with {short(least.params)} parameters"
    accuracy = plus_minus(least.top1[k], sweep.n_test)
    apart = f"the difference is below {CLEAR:g} standard errors"
    if len(same) == 1:
        return f"{which} ({accuracy}) is not distinguishable from it: {apart}."
    return (
        f"{len(same)} smaller ones are not distinguishable from it ({apart}); the smallest of them is "
        f"{which} ({accuracy})."
    )
