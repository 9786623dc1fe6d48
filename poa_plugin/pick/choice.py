"""Which network of a sweep to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.evaluate.networks import only_trained
from poa_plugin.extraction.write import write_networks
from poa_plugin.runs.entries import Entry, Series, series_of
from poa_plugin.runs.front import evaluated
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import open_run
from poa_plugin.sizes import parse_milliseconds, parse_size, short
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

    def excesses(self, network: Entry) -> dict[str, float]:
        """Return, by the name of each limit that is set, the network's size as a multiple of it."""
        limits = {name: limit for name, limit in self.__dict__.items() if limit is not None}
        return {name: getattr(network, name) / limit for name, limit in limits.items()}


def pick(series: Series, limits: Limits, k: int | None = None) -> Entry:
    """Return the most accurate network within all limits; of equally accurate ones, the smallest.

    A latency that is not reliable fits no limit of latency.

    Args:
        series: of one run.
        limits: without any, the most accurate of all networks is returned.
        k: neighbors, one of the series'; 20 or the nearest to it if None.

    Raises:
        UserError: no network fits, or the series has no such k or no latencies.
    """
    shown = chosen_k(series, k)
    fitting = fitting_networks(series, limits, shown)
    if not fitting:
        raise UserError(_none_fits(series, limits, shown))
    return min(fitting, key=lambda entry: (-entry.top1[shown], entry.params, entry.flops))


def chosen_k(series: Series, k: int | None = None) -> int:
    """Return the k to pick by: this one, or the series' `shown_k` if None.

    Raises:
        UserError: the series has no accuracies, or none at this k.
    """
    if not any(evaluated(series.networks, each) for each in series.ks):
        raise UserError("The sweep holds no accuracies: run 'poa sweep' on the run again.")
    if k is not None and not evaluated(series.networks, k):
        ks = ", ".join(map(str, series.ks))
        raise UserError(f"The sweep has no accuracies for k = {k}: it has k = {ks}.")
    return series.shown_k if k is None else k


def fitting_networks(series: Series, limits: Limits, k: int) -> list[Entry]:
    """Return the networks with an accuracy at a k that are within all limits.

    Raises:
        UserError: latency is limited, and was not measured for some networks.
    """
    networks = evaluated(series.networks, k)
    if limits.latency_ms is not None:
        unmeasured = sum(network.latency_ms is None for network in networks)
        if unmeasured:
            raise UserError(
                f"The latency of {unmeasured} of {len(networks)} networks was not measured: run "
                f"'poa sweep' without --no-latency, which does not evaluate them again."
            )
        networks = [network for network in networks if network.usable_latency is not None]
    return [
        network for network in networks if max(limits.excesses(network).values(), default=0) <= 1
    ]


def unreliable(series: Series, limits: Limits) -> str:
    """Return a sentence on the latencies that were not picked by, empty if there are none or no limit."""
    measured = [network for network in series.networks if network.latency_ms is not None]
    n_left_out = sum(network.usable_latency is None for network in measured)
    if limits.latency_ms is None or not n_left_out:
        return ""
    are, was = ("is", "was") if n_left_out == 1 else ("are", "were")
    return (
        f"{n_left_out} of {len(measured)} latencies {are} unreliable and {was} not picked by, since their "
        f"rounds disagree: run 'poa sweep' again on a machine that does nothing else."
    )


def series_to_pick_from(folder: Path, results: Path | None = None) -> Series:
    """Return the networks of a run that are compared with each other; see `series_of`.

    Args:
        folder: of the run.
        results: where its results lie, if not in `RUN/eval`.

    Raises:
        UserError: it is no run's folder, or none of its networks was evaluated.
    """
    recorded = read_results(results or folder / "eval")
    if not recorded.select(kind="trained").rows:
        open_run(folder)
        if results is not None:
            raise UserError(
                f"There are no results of networks in '{results}': 'poa sweep {folder} --to {results}' writes "
                f"them."
            )
        raise UserError(f"'{folder}' has no sweep yet: run 'poa sweep {folder}' first.")
    return only_trained(folder, series_of(recorded))


def write_picked(
    folder: Path,
    series: Series,
    network: Entry,
    to: Path,
    force: bool = False,
    results: Path | None = None,
) -> None:
    """Write a network of a run's series as an ordinary model, from the branch that was evaluated.

    Args:
        folder: of the run.
        series, network: what was picked, and from where.
        to: a new folder.
        force: replace a network that was extracted there earlier.
        results: where the run's results lie, if not in `RUN/eval`.

    Raises:
        UserError: the run was trained on since the sweep, or `to` cannot be written.
    """
    run = open_run(folder)
    step, branch = series.step, series.branch
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
    weights = series.conditions.get("weights")
    if weights not in (None, weights_checksum(run.checkpoint)):
        raise UserError(
            f"The sweep is of other weights than those of '{folder}' at step {step}: run 'poa sweep' on "
            f"it again."
        )
    write_networks(run, {to: network.network}, branch, force=force, results=results)


def _none_fits(series: Series, limits: Limits, k: int) -> str:
    """Say which network comes nearest to the limits, and which were left out."""
    networks = evaluated(series.networks, k)
    if limits.latency_ms is not None:
        networks = [network for network in networks if network.usable_latency is not None]
    parts = [unreliable(series, limits)]
    if networks:
        nearest = min(networks, key=lambda network: max(limits.excesses(network).values()))
        parts.insert(0, f"No network fits: the nearest is {_misses(nearest, limits)}.")
    return " ".join(filter(None, parts))


def _misses(network: Entry, limits: Limits) -> str:
    """Say by what a network exceeds the limits."""
    units = {"params": " parameters", "flops": " FLOPs", "latency_ms": " ms"}
    parts = []
    for name, excess in limits.excesses(network).items():
        if excess > 1:
            sizes = (getattr(network, name), getattr(limits, name))
            value, most = (f"{x:.3g}" if name == "latency_ms" else short(x) for x in sizes)
            parts.append(f"{value}{units[name]} where {most} are allowed ({excess:.2f} times)")
    return f"{network.network}, which has {' and '.join(parts)}"
