"""Which network of a sweep to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.evaluate.results import short
from poa_plugin.evaluate.sizes import parse_milliseconds, parse_size
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, read_sweep
from poa_plugin.extract import open_run


@dataclass(frozen=True)
class Limits:
    """What a network may have at most; None is no limit.

    Attributes:
        params: parameters.
        flops: multiply-adds of one image.
        latency_ms: milliseconds for one image, on the device of the sweep.
    """

    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None

    @classmethod
    def parse(cls, params: str | None, flops: str | None, latency_ms: str | None) -> Limits:
        """Return the limits that the options of `poa pick` give; see `parse_size`."""
        return cls(
            None if params is None else parse_size(params, "--max-params"),
            None if flops is None else parse_size(flops, "--max-flops"),
            None if latency_ms is None else parse_milliseconds(latency_ms, "--max-latency-ms"),
        )

    def excesses(self, network: NetworkResult) -> dict[str, float]:
        """Return, by the name of each limit that is given, the network's size as a multiple of it."""
        given = {name: limit for name, limit in self.__dict__.items() if limit is not None}
        return {name: getattr(network, name) / limit for name, limit in given.items()}


def pick(sweep: Sweep, limits: Limits, k: int | None = None) -> NetworkResult:
    """Return the most accurate network within all limits; of equally accurate ones, the smallest.

    Args:
        sweep: of one run.
        limits: at least one.
        k: neighbours, one of the sweep's; 20 or the nearest to it if None.

    Raises:
        UserError: no limit is given, no network fits, or the sweep has no such k or no latencies.
    """
    if limits == Limits():
        raise UserError("Give at least one of --max-params, --max-flops and --max-latency-ms.")
    if not sweep.ks:
        raise UserError("The sweep holds no accuracies: run 'poa sweep' on the run again.")
    if k is not None and k not in sweep.ks:
        known = ", ".join(map(str, sweep.ks))
        raise UserError(f"The sweep has no accuracies for k = {k}: it has k = {known}.")
    shown = shown_k(sweep) if k is None else k
    networks = [network for network in sweep.networks if shown in network.top1]
    unmeasured = sum(network.latency_ms is None for network in networks)
    if limits.latency_ms is not None and unmeasured:
        raise UserError(
            f"The latency of {unmeasured} of {len(networks)} networks was not measured: run "
            f"'poa sweep' without --no-latency, which does not evaluate them again."
        )
    fitting = [own for own in networks if max(limits.excesses(own).values()) <= 1]
    if not fitting:
        nearest = min(networks, key=lambda own: max(limits.excesses(own).values()))
        raise UserError(f"No network fits: the nearest is {_misses(nearest, limits)}.")
    return min(fitting, key=lambda own: (-own.top1[shown], own.params, own.flops))


def sweep_of(folder: Path) -> Sweep:
    """Return the sweep of a run.

    Raises:
        UserError: it is no run's folder, or there is no sweep in it.
    """
    sweep = read_sweep(folder / "eval")
    if sweep is None:
        open_run(folder)
        raise UserError(f"'{folder}' has no sweep yet: run 'poa sweep {folder}' first.")
    return sweep


def write_picked(
    folder: Path, sweep: Sweep, network: NetworkResult, to: Path, force: bool = False
) -> None:
    """Write a network of a run's sweep as an ordinary model, from the branch that was evaluated.

    Args:
        folder: of the run.
        sweep, network: what was picked.
        to: a new folder.
        force: replace a network that was extracted there earlier.

    Raises:
        UserError: the run was trained on since the sweep, or `to` cannot be written.
    """
    run = open_run(folder)
    step = sweep.conditions["step"]
    if run.step != step:
        raise UserError(
            f"The sweep is of step {step}, and the newest checkpoint of '{folder}' is of step "
            f"{run.step}: run 'poa sweep' on it again."
        )
    run.write({to: network.network}, sweep.conditions["branch"], force=force)


def shown_k(sweep: Sweep) -> int:
    """Return the k to show where one is shown: 20, or the nearest that was evaluated."""
    return min(sweep.ks, key=lambda k: abs(k - 20))


def pareto_front(
    networks: Sequence[NetworkResult], size: Callable[[NetworkResult], float], k: int
) -> list[NetworkResult]:
    """Return the networks that no smaller or equally small one reaches in accuracy, smallest first."""
    front: list[NetworkResult] = []
    for network in sorted(networks, key=lambda own: (size(own), -own.top1[k])):
        if not front or network.top1[k] > front[-1].top1[k]:
            front.append(network)
    return front


def describe(network: NetworkResult) -> str:
    """Return a line with a network's names, sizes and accuracies."""
    words = [f"{short(network.params)} parameters", f"{short(network.flops)} FLOPs"]
    if network.latency_ms is not None:
        words.append(f"{network.latency_ms:.3g} ms")
    top1 = ", ".join(f"{value:.1f} (k = {k})" for k, value in sorted(network.top1.items()))
    names = f" ({', '.join(network.aliases)})" if network.aliases else ""
    return f"{network.network}{names}: {', '.join(words)}; top-1 {top1}"


def _misses(network: NetworkResult, limits: Limits) -> str:
    """Say by what a network exceeds the limits."""
    units = {"params": " parameters", "flops": " FLOPs", "latency_ms": " ms"}
    parts = []
    for name, excess in limits.excesses(network).items():
        if excess > 1:
            has, limit = getattr(network, name), getattr(limits, name)
            shown = (f"{x:.3g}" if name == "latency_ms" else short(x) for x in (has, limit))
            value, most = shown
            parts.append(f"{value}{units[name]} where {most} are allowed ({excess:.2f} times)")
    return f"{network.network}, which has {' and '.join(parts)}"
