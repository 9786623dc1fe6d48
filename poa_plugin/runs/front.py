"""Which k is shown, which networks are on the Pareto front, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

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
    costs = [(size(network) or 0.0, network) for network in evaluated(networks, k)]
    costs = [(cost, network) for cost, network in costs if 0 < cost < math.inf]
    front: list[T] = []
    best = -math.inf
    for _, network in sorted(costs, key=lambda pair: (pair[0], -accuracy(pair[1], k))):
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
    return max(evaluated(networks, k), key=lambda network: accuracy(network, k), default=None)


def is_reliable(latency: float, spread: float) -> bool:
    """Tell whether the distance between a latency's quartiles is small, as a share of the median."""
    return spread <= RELIABLE_SPREAD * latency
