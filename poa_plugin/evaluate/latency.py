"""How long networks take for one image, measured so that a busy machine shows and does not mislead."""

from __future__ import annotations

import gc
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from poa_plugin.backbones.base import PlainNetwork
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.runs.front import is_reliable

Name = TypeVar("Name", bound=Hashable)

ROUNDS, SECONDS = 9, 0.05
"""Forward passes of each network, after those that warm up: at least so many, and for at least so long."""

MORE_ROUNDS, MORE_SECONDS = 2.0, 0.25
"""How long networks are measured that are not reliable yet: so many times as long as the first rounds took,
or so many seconds for each network."""

CONTRADICTION = 0.1
"""By which share a network may be slower than one that contains it, and the two still be called equal."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median, and the distance between the quartiles.

    Where a network was measured slower than one that contains it, the spread is at least that difference.
    """

    milliseconds: float
    spread: float

    @property
    def is_reliable(self) -> bool:
        """Whether the spread is small, as a share of the median."""
        return is_reliable(self.milliseconds, self.spread)


@torch.inference_mode()
def latencies(
    networks: Mapping[int, PlainNetwork], paths: Mapping[Subnet, Sequence[str]], image: Tensor
) -> dict[Subnet, Latency]:
    """Return how long one forward pass of each member takes.

    Args:
        networks: the ordinary network of the deepest member, by width.
        paths: the modules that each member runs.
        image: (1, C, H, W) on the networks' device.
    """

    def run(subnet: Subnet) -> Callable[[], None]:
        network, path = networks[subnet.width], paths[subnet]
        return lambda: _forward(network, path, image)

    containing = {
        inner: [outer for outer in paths if _contains(outer, paths[outer], inner, paths[inner])]
        for inner in paths
    }
    return measure({subnet: run(subnet) for subnet in paths}, containing)


def measure(
    runs: Mapping[Name, Callable[[], None]], containing: Mapping[Name, Sequence[Name]]
) -> dict[Name, Latency]:
    """Time calls in rounds in which all take turns, each round in another order.

    What keeps the machine busy for a while then meets all of them, and few rounds of each; the median passes
    over these. Those that are not reliable after the first rounds are run again until they are, or time is up.

    Args:
        runs: what to time, by name.
        containing: by name, those that do all that it does and more, which cannot be faster.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    order, shuffle = list(runs), random.Random(0).shuffle
    collects = gc.isenabled()
    gc.disable()
    try:
        rounds, start = 0, time.perf_counter()
        limit = float("inf")
        while order:
            shuffle(order)
            for name in order:
                times[name].append(_milliseconds(runs[name]))
            rounds, passed = rounds + 1, time.perf_counter() - start
            if rounds < ROUNDS or passed < SECONDS * len(runs):
                continue
            if limit == float("inf"):
                limit = max(MORE_ROUNDS * passed, MORE_SECONDS * len(runs))
            measured = _latencies(times, containing)
            order = [name for name in runs if not measured[name].is_reliable and passed < limit]
    finally:
        if collects:
            gc.enable()
    return _latencies(times, containing)


def device_name(device: torch.device) -> str:
    """Return what a device is called in results."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _latencies(
    times: Mapping[Name, Sequence[float]], containing: Mapping[Name, Sequence[Name]]
) -> dict[Name, Latency]:
    medians = {name: statistics.median(each) for name, each in times.items()}
    by_name = {}
    for name, each in times.items():
        low, _, high = statistics.quantiles(each, n=4, method="inclusive")
        fastest = min((medians[other] for other in containing[name]), default=medians[name])
        excess = medians[name] - fastest
        if excess <= CONTRADICTION * medians[name]:
            excess = 0.0
        by_name[name] = Latency(medians[name], max(high - low, excess))
    return by_name


def _contains(
    outer: Subnet, outer_path: Sequence[str], inner: Subnet, inner_path: Sequence[str]
) -> bool:
    """Return whether a network runs all modules of another of its width, and more."""
    more = len(outer_path) > len(inner_path) and outer.width == inner.width
    return more and set(inner_path) <= set(outer_path)


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _forward(network: PlainNetwork, path: Sequence[str], image: Tensor) -> None:
    """Run a member, and wait for what a GPU still has to do."""
    x = network.stem(image)
    for name in path:
        x = network.step(x, name)
    network.output(x)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
