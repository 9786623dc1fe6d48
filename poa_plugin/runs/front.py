"""Which k is shown, which networks are on the Pareto front, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from poa_plugin.runs.sweep_results import NetworkResult, Sweep
from poa_plugin.runs.uncertainty import milliseconds

RELIABLE_SPREAD = 0.2
"""Up to which share of its median the distance between a latency's quartiles may be."""


class Evaluated(Protocol):
    """A network with accuracies in percent by k."""

    @property
    def top1(self) -> Mapping[int, float]:
        """Accuracy in percent by k; what is not finite counts as not evaluated."""


T = TypeVar("T", bound=Evaluated)


def nearest_k(ks: Iterable[int]) -> int | None:
    """Return the k to show where one is shown: 20, or the nearest to it, the smaller of two; None of none."""
    return min(ks, key=lambda k: (abs(k - 20), k), default=None)


def shown_k(sweep: Sweep) -> int:
    """Return the k to show where one is shown: 20, or the nearest that was evaluated."""
    k = nearest_k(known for known in sweep.ks if evaluated(sweep.networks, known))
    return sweep.ks[0] if k is None else k


def pareto_front(
    networks: Sequence[T], size: Callable[[T], float | None], k: int | None
) -> list[T]:
    """Return the networks that no smaller or equally small one reaches in accuracy, smallest first.

    Of networks that are equal in both, the first is on the front. The page's script has the same rule for
    the networks that a filter leaves (`page/filter.js`).

    Args:
        networks: of one run.
        size: what is to be small; a network for which it is None, or no positive number, is left out.
        k: neighbors; a network that has no accuracy there is left out.
    """
    known = [(size(own) or 0.0, own) for own in evaluated(networks, k)]
    known = [(cost, own) for cost, own in known if 0 < cost < math.inf]
    front: list[T] = []
    best = -math.inf
    for _, network in sorted(known, key=lambda pair: (pair[0], -accuracy(pair[1], k))):
        if accuracy(network, k) > best:
            best = accuracy(network, k)
            front.append(network)
    return front


def evaluated(networks: Iterable[T], k: int | None) -> list[T]:
    """Return the networks that have an accuracy at a k."""
    return [network for network in networks if math.isfinite(accuracy(network, k))]


def accuracy(network: Evaluated, k: int | None) -> float:
    """Return a network's accuracy in percent at a k, NaN if there is none."""
    return math.nan if k is None else network.top1.get(k, math.nan)


def most_accurate(networks: Sequence[T], k: int | None) -> T | None:
    """Return the network of the highest accuracy at a k, the first of several; None if none has one."""
    return max(evaluated(networks, k), key=lambda own: accuracy(own, k), default=None)


def usable_latency(network: NetworkResult) -> float | None:
    """Return a network's latency in milliseconds; None if it was not measured, or not reliably."""
    latency = network.latency_ms
    usable = latency is not None and 0 < latency < math.inf and latency_is_reliable(network)
    return latency if usable else None


def latency_is_reliable(network: NetworkResult) -> bool:
    """Tell whether a network's latency is worth comparing: it was measured, with a small spread.

    `latency_spread_ms` also covers contradictions, such as a network that was measured slower than one that
    contains it. A latency of a file that records no spread is taken as it is.
    """
    if network.latency_ms is None:
        return False
    return is_reliable(network.latency_ms, network.latency_spread_ms or 0.0)


def is_reliable(latency: float, spread: float) -> bool:
    """Tell whether the distance between a latency's quartiles is small, as a share of the median."""
    return spread <= RELIABLE_SPREAD * latency


def latency_text(network: NetworkResult, unit: str = "") -> str:
    """Return a latency in milliseconds as text, such as `5.9 ±0.3`; `-` if it was not measured.

    Half of the rounds lie within what stands after `±`. A `?` marks a latency that is not reliable.
    """
    if network.latency_ms is None:
        return "-"
    mark = "" if usable_latency(network) is not None else " ?"
    return f"{milliseconds(network.latency_ms, network.latency_spread_ms)}{unit}{mark}"
