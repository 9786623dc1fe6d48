"""Latencies: what a busy machine does to them, and what is said about it."""

from __future__ import annotations

import pytest

from poa_plugin.evaluate.latency import latency_is_reliable
from poa_plugin.evaluate.sweep_results import NetworkResult


@pytest.mark.parametrize(
    ("latency", "spread", "reliable"),
    [
        (10.0, 0.0, True),
        (10.0, 2.0, True),
        (10.0, 2.1, False),
        (None, None, False),
        (10.0, None, True),
    ],
)
def test_a_small_spread_is_reliable(
    latency: float | None, spread: float | None, reliable: bool
) -> None:
    network = NetworkResult("w8_d2", (), 8, 2, 100, 1000, latency, {}, spread)
    assert latency_is_reliable(network) is reliable
