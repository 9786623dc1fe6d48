"""Which k is shown, and which networks are on the Pareto front."""

from __future__ import annotations

import itertools
import math

from poa_plugin.runs.entries import Entry
from poa_plugin.runs.front import most_accurate, nearest_k, pareto_front


def network(name: str, params: int, flops: int, ms: float | None, top1: float) -> Entry:
    return Entry(name, params=params, flops=flops, latency_ms=ms, top1={20: top1})


def test_the_pareto_front_against_every_pair() -> None:
    grid = itertools.product((1, 2, 3), (3, 1, 2), range(4))
    networks = [network(f"n{i}", p, f, 1.0, 60.0 + i % 7) for i, (p, f, _) in enumerate(grid)]
    front = pareto_front(networks, lambda own: own.params, 20)
    for own in networks:
        beaten = any(
            (other.params <= own.params and other.top1[20] > own.top1[20])
            or (other.params < own.params and other.top1[20] >= own.top1[20])
            for other in networks
        )
        points = [(other.params, other.top1[20]) for other in front]
        assert beaten == ((own.params, own.top1[20]) not in points)
    assert [own.params for own in front] == sorted({own.params for own in front})


def test_what_has_no_place_is_left_out_of_the_front() -> None:
    networks = [network("a", 1, 1, None, 90.0), network("b", 2, 1, 5.0, math.nan)]
    networks += [network("c", 0, 1, 4.0, 70.0), network("d", 4, 1, math.inf, 80.0)]
    names = [own.network for own in pareto_front(networks, lambda own: own.latency_ms, 20)]
    assert names == ["c"]
    assert [own.network for own in pareto_front(networks, lambda own: own.params, 20)] == ["a"]
    assert pareto_front(networks, lambda own: own.params, 7) == []
    assert pareto_front(networks, lambda own: own.params, None) == []


def test_the_first_of_equals_is_the_one_that_is_named() -> None:
    networks = [network(name, 1, 1, 1.0, 50.0) for name in "ab"]
    assert pareto_front(networks, lambda own: own.params, 20) == networks[:1]
    assert most_accurate(networks, 20) is networks[0]
    assert most_accurate([], 20) is most_accurate(networks, None) is None


def test_the_k_that_is_shown_does_not_depend_on_the_order() -> None:
    assert nearest_k({10, 30, 200}) == nearest_k([200, 30, 10]) == 10
    assert nearest_k([1, 20, 21]) == 20
    assert nearest_k([]) is None
