"""Which network of a sweep to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.evaluate.front import evaluated, nearest_k, usable_latency
from poa_plugin.evaluate.networks import trained_results
from poa_plugin.evaluate.results import short
from poa_plugin.evaluate.sizes import parse_milliseconds, parse_size
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, read_sweep
from poa_plugin.extract import open_run
from poa_plugin.train.checkpoint import weights_checksum


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

    A latency that is not reliable fits no limit of latency.

    Args:
        sweep: of one run.
        limits: without any, the most accurate of all networks is returned.
        k: neighbors, one of the sweep's; 20 or the nearest to it if None.

    Raises:
        UserError: no network fits, or the sweep has no such k or no latencies.
    """
    shown = chosen_k(sweep, k)
    fitting = fitting_networks(sweep, limits, shown)
    if not fitting:
        raise UserError(_none_fits(sweep, limits, shown))
    return min(fitting, key=lambda own: (-own.top1[shown], own.params, own.flops))


def chosen_k(sweep: Sweep, k: int | None = None) -> int:
    """Return the k to pick by: the one that is given, or `shown_k`.

    Raises:
        UserError: the sweep has no accuracies, or none at this k.
    """
    if not any(evaluated(sweep.networks, known) for known in sweep.ks):
        raise UserError("The sweep holds no accuracies: run 'poa sweep' on the run again.")
    if k is not None and not evaluated(sweep.networks, k):
        known = ", ".join(map(str, sweep.ks))
        raise UserError(f"The sweep has no accuracies for k = {k}: it has k = {known}.")
    return shown_k(sweep) if k is None else k


def fitting_networks(sweep: Sweep, limits: Limits, k: int) -> list[NetworkResult]:
    """Return the networks with an accuracy at a k that are within all limits.

    Raises:
        UserError: latency is limited, and was not measured for some networks.
    """
    networks = evaluated(sweep.networks, k)
    if limits.latency_ms is not None:
        unmeasured = sum(network.latency_ms is None for network in networks)
        if unmeasured:
            raise UserError(
                f"The latency of {unmeasured} of {len(networks)} networks was not measured: run "
                f"'poa sweep' without --no-latency, which does not evaluate them again."
            )
        networks = [network for network in networks if usable_latency(network) is not None]
    return [own for own in networks if max(limits.excesses(own).values(), default=0) <= 1]


def unreliable(sweep: Sweep, limits: Limits) -> str:
    """Return a sentence on the latencies that were not picked by, empty if there are none or no limit."""
    measured = [own for own in sweep.networks if own.latency_ms is not None]
    n_left_out = sum(usable_latency(own) is None for own in measured)
    if limits.latency_ms is None or not n_left_out:
        return ""
    are, was = ("is", "was") if n_left_out == 1 else ("are", "were")
    return (
        f"{n_left_out} of {len(measured)} latencies {are} unreliable and {was} not picked by, since their "
        f"rounds disagree: run 'poa sweep' again on a machine that does nothing else."
    )


def sweep_of(folder: Path, results: Path | None = None) -> Sweep:
    """Return the sweep of a run.

    Args:
        folder: of the run.
        results: where the sweep lies, if not in `RUN/eval`.

    Raises:
        UserError: it is no run's folder, or there is no sweep in it.
    """
    sweep = read_sweep(results or folder / "eval")
    if sweep is None:
        open_run(folder)
        if results is not None:
            raise UserError(
                f"There is no sweep in '{results}': 'poa sweep {folder} --to {results}' writes one."
            )
        raise UserError(f"'{folder}' has no sweep yet: run 'poa sweep {folder}' first.")
    return trained_results(folder, sweep)


def write_picked(
    folder: Path,
    sweep: Sweep,
    network: NetworkResult,
    to: Path,
    force: bool = False,
    results: Path | None = None,
) -> None:
    """Write a network of a run's sweep as an ordinary model, from the branch that was evaluated.

    Args:
        folder: of the run.
        sweep, network: what was picked.
        to: a new folder.
        force: replace a network that was extracted there earlier.
        results: where the run's results lie, if not in `RUN/eval`.

    Raises:
        UserError: the run was trained on since the sweep, or `to` cannot be written.
    """
    run = open_run(folder)
    step, branch = (sweep.conditions.get(name) for name in ("step", "branch"))
    if branch is None or step is None:
        raise UserError(
            f"The sweep of '{folder}' does not say of which step and branch it is: run 'poa sweep' on it "
            f"again."
        )
    if run.step != step:
        raise UserError(
            f"The sweep is of step {step}, and the newest checkpoint of '{folder}' is of step "
            f"{run.step}: run 'poa sweep' on it again."
        )
    weights = sweep.conditions.get("weights")
    if weights not in (None, weights_checksum(run.checkpoint)):
        raise UserError(
            f"The sweep is of other weights than those of '{folder}' at step {step}: run 'poa sweep' on "
            f"it again."
        )
    run.write({to: network.network}, branch, force=force, results=results)


def shown_k(sweep: Sweep) -> int:
    """Return the k to show where one is shown: 20, or the nearest that was evaluated."""
    k = nearest_k(known for known in sweep.ks if evaluated(sweep.networks, known))
    return sweep.ks[0] if k is None else k


def _none_fits(sweep: Sweep, limits: Limits, k: int) -> str:
    """Say which network comes nearest to the limits, and which were left out."""
    networks = evaluated(sweep.networks, k)
    if limits.latency_ms is not None:
        networks = [network for network in networks if usable_latency(network) is not None]
    parts = [unreliable(sweep, limits)]
    if networks:
        nearest = min(networks, key=lambda own: max(limits.excesses(own).values()))
        parts.insert(0, f"No network fits: the nearest is {_misses(nearest, limits)}.")
    return " ".join(filter(None, parts))


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
