"""Latencies: what a busy machine does to them, and what is said about it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from poa_plugin.backbones import ElasticBackbone
from poa_plugin.evaluate import latency
from poa_plugin.evaluate.latency import latencies, measure
from poa_plugin.evaluate.tree import deepest_network
from poa_plugin.runs.entries import Entry

TRUE = {f"d{depth}": 0.001 * depth for depth in (1, 2, 4, 8, 16)}
"""Seconds that networks of one width take on an idle machine."""
CONTAINING = {
    name: [other for other in TRUE if TRUE[other] > seconds] for name, seconds in TRUE.items()
}


class Machine:
    """A clock that only the networks move, at a speed that depends on the time and the network."""

    def __init__(self, slowness: Callable[[float, str], float]) -> None:
        self.now, self.slowness = 0.0, slowness
        self.calls: list[str] = []

    def run(self, name: str) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += TRUE[name] * self.slowness(self.now, name)

        return run


def measured(
    monkeypatch: pytest.MonkeyPatch, slowness: Callable[[float, str], float]
) -> tuple[Machine, dict[str, latency.Latency]]:
    machine = Machine(slowness)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: machine.now)
    return machine, measure({name: machine.run(name) for name in TRUE}, CONTAINING)


def test_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, found = measured(monkeypatch, lambda now, name: 1.0)
    for name, own in found.items():
        assert own.milliseconds == pytest.approx(1000 * TRUE[name])
        assert own.spread == pytest.approx(0, abs=1e-9)
        assert own.is_reliable
    rounds = [machine.calls[i : i + len(TRUE)] for i in range(0, len(machine.calls), len(TRUE))]
    assert all(sorted(calls) == sorted(TRUE) for calls in rounds), "all take turns in every round"
    assert len(set(map(tuple, rounds))) > 5, "each round has another order"
    assert len(rounds) > latency.ROUNDS


@pytest.mark.parametrize("seed", range(5))
def test_bursts_mislead_nobody(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Another process takes the machine for a while, now and then: every network keeps its own time."""
    draw = random.Random(seed)
    bursts = [(start := draw.uniform(0, 5), start + draw.uniform(0.01, 0.05)) for _ in range(12)]

    def slowness(now: float, name: str) -> float:
        return 30.0 if any(start <= now < end for start, end in bursts) else 1.0

    _, found = measured(monkeypatch, slowness)
    for name, own in found.items():
        assert own.milliseconds == pytest.approx(1000 * TRUE[name])
        assert own.is_reliable


def test_a_burst_at_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, found = measured(monkeypatch, lambda now, name: 5.0 if now < 1.0 else 1.0)
    assert all(own.is_reliable for own in found.values())
    assert found["d1"].milliseconds == pytest.approx(1)
    assert machine.now > 1.0


def test_a_machine_that_is_always_busy_is_said_so_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(0)
    machine, found = measured(monkeypatch, lambda now, name: draw.choice([1.0, 1.0, 4.0, 9.0]))
    assert not any(own.is_reliable for own in found.values())
    first = 10 * 15 * sum(TRUE.values())
    assert machine.now < max(latency.MORE_SECONDS * len(TRUE), latency.MORE_ROUNDS * first) + 1


def test_a_small_network_that_is_slower_than_a_large_one_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """160 ms for the smallest and 5.9 for one eight times its size, both with hardly any spread."""
    _, found = measured(monkeypatch, lambda now, name: 160.0 if name == "d1" else 1.0)
    assert found["d1"].milliseconds == pytest.approx(160)
    assert found["d1"].spread == pytest.approx(158)
    assert not found["d1"].is_reliable
    assert all(found[name].is_reliable for name in TRUE if name != "d1")


def test_all_widths_take_turns(backbone: ElasticBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real networks: members of a width contain one another, those of other widths do not."""
    seen = {}
    monkeypatch.setattr(latency, "measure", lambda runs, containing: seen.update(containing) or {})
    members = [subnet for subnet in backbone.space if subnet.width in (24, 48)]
    networks = {width: deepest_network(backbone, width) for width in (24, 48)}
    paths = {subnet: backbone.member_path(subnet) for subnet in members}
    latencies(networks, paths, torch.zeros(1, 3, 48, 48))
    names = {inner.name: [outer.name for outer in outers] for inner, outers in seen.items()}
    assert names == {
        "w24_d2": ["w24_d3", "w24_d4"],
        "w24_d3": ["w24_d4"],
        "w24_d4": [],
        "w48_d2": ["w48_d3", "w48_d4"],
        "w48_d3": ["w48_d4"],
        "w48_d4": [],
    }


@pytest.mark.parametrize(
    ("latency", "spread", "reliable"),
    [
        (10.0, 0.0, True),
        (10.0, 2.0, True),
        (10.0, 2.1, False),
        (None, None, True),
        (10.0, None, True),
    ],
)
def test_a_small_spread_is_reliable(
    latency: float | None, spread: float | None, reliable: bool
) -> None:
    entry = Entry("w8_d2", latency_ms=latency, latency_spread_ms=spread)
    assert entry.latency_is_reliable is reliable
