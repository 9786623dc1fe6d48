"""How long networks take for one image."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from poa_plugin.backbones.base import PlainNetwork
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.sweep_results import NetworkResult

ROUNDS, SECONDS = 9, 0.05
"""Forward passes of each network, after one that warms up: at least so many, and for at least so long."""

RELIABLE_SPREAD = 0.2
"""Up to which share of its median the distance between a latency's quartiles may be."""


def latency_is_reliable(network: NetworkResult) -> bool:
    """Tell whether a network's latency is worth comparing: it was measured, with a small spread.

    `latency_spread_ms` also covers contradictions, such as a network that was measured faster than one
    that it contains. A latency of a file that records no spread is taken as it is.
    """
    if network.latency_ms is None:
        return False
    return (network.latency_spread_ms or 0.0) <= RELIABLE_SPREAD * network.latency_ms


@torch.inference_mode()
def latencies(
    network: PlainNetwork, paths: Mapping[Subnet, Sequence[str]], image: Tensor
) -> dict[Subnet, float]:
    """Return milliseconds of one forward pass for each member of a width: the median over rounds.

    The members take turns, so that a machine that is busy for a while slows all of them alike.

    Args:
        network: the ordinary network of the deepest member.
        paths: the modules that each member runs.
        image: (1, C, H, W) on the network's device.
    """
    times: dict[Subnet, list[float]] = {subnet: [] for subnet in paths}
    for path in paths.values():
        _milliseconds(network, path, image)
    rounds, start = 0, time.perf_counter()
    while rounds < ROUNDS or time.perf_counter() - start < SECONDS * len(paths):
        for subnet, path in paths.items():
            times[subnet].append(_milliseconds(network, path, image))
        rounds += 1
    return {subnet: statistics.median(own) for subnet, own in times.items()}


def device_name(device: torch.device) -> str:
    """Return what a device is called in results."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _milliseconds(network: PlainNetwork, path: Sequence[str], image: Tensor) -> float:
    _finish(image.device)
    start = time.perf_counter()
    x = network.stem(image)
    for name in path:
        x = network.step(x, name)
    network.output(x)
    _finish(image.device)
    return 1000 * (time.perf_counter() - start)


def _finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
