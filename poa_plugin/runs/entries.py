"""A run's results by network: those that are compared with each other, and what stands beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from poa_plugin.runs.former_results import BY_SWEEP
from poa_plugin.runs.front import evaluated, is_reliable, nearest_k
from poa_plugin.runs.results import Network, Results, Row
from poa_plugin.runs.uncertainty import milliseconds

OTHER = "other"
"""The kind of an entry that was evaluated under other conditions than those it stands beside."""

DEVICE = ("device", "threads", "torch", "crop_size")
"""Conditions that latencies have in common which can be compared."""


@dataclass(frozen=True)
class Entry:
    """One network with its results: a line of a table, and a point of a plot.

    Attributes:
        network: its name; `label` is the name as it is shown, `aliases` are its further names.
        kind: one of `poa_plugin.runs.results.KINDS`, or OTHER.
        width, depth, params, flops: 0 where that is not recorded.
        latency_ms: the median, None where it was not measured; `latency_spread_ms` is the distance between
            the quartiles.
        top1, before: accuracy in percent by k; the same network's before training.
        n_test, n_test_before: images that these were measured on by k, as far as that is recorded.
    """

    network: str
    label: str = ""
    kind: str = "trained"
    aliases: tuple[str, ...] = ()
    width: int = 0
    depth: int = 0
    params: int = 0
    flops: int = 0
    latency_ms: float | None = None
    latency_spread_ms: float | None = None
    top1: Mapping[int, float] = field(default_factory=dict)
    before: Mapping[int, float] = field(default_factory=dict)
    n_test: Mapping[int, int] = field(default_factory=dict)
    n_test_before: Mapping[int, int] = field(default_factory=dict)

    @property
    def latency_is_reliable(self) -> bool:
        """Whether the latency can be compared; true where it was not measured.

        `latency_spread_ms` also covers contradictions, such as a network that was measured slower than one
        that contains it. A latency of a file that records no spread is taken as it is.
        """
        spread = self.latency_spread_ms or 0.0
        return self.latency_ms is None or is_reliable(self.latency_ms, spread)

    @property
    def usable_latency(self) -> float | None:
        """The latency in milliseconds if it was measured and can be compared."""
        latency = self.latency_ms
        usable = latency is not None and 0 < latency < math.inf and self.latency_is_reliable
        return latency if usable else None


SIZES: dict[str, Callable[[Entry], float | None]] = {
    "params": lambda entry: entry.params or None,
    "flops": lambda entry: entry.flops or None,
    "latency": lambda entry: entry.usable_latency,
}
"""What accuracy is drawn against, and what is small on the Pareto front."""


@dataclass(frozen=True)
class Series:
    """The trained networks of a run that were evaluated under the same conditions, smallest first.

    Attributes:
        networks: with their sizes, accuracies and latencies.
        branch, step: of the weights; None where that is not recorded.
        name: see `Row.series`; empty where it is not recorded.
        conditions: of accuracies and latencies by name, `branch`, `step`, `data` and `n_test` among them.
    """

    networks: Sequence[Entry] = ()
    branch: str | None = None
    step: int | None = None
    name: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ks(self) -> list[int]:
        """The k for which there are accuracies, in increasing order."""
        return sorted({k for network in self.networks for k in network.top1})

    @property
    def n_test(self) -> int:
        """Images that the accuracies were measured on; 0 where that is not recorded."""
        return max((n for network in self.networks for n in network.n_test.values()), default=0)

    @property
    def shown_k(self) -> int:
        """The k to show where one is shown: 20, or the nearest that was evaluated."""
        k = nearest_k(k for k in self.ks if evaluated(self.networks, k))
        return self.ks[0] if k is None else k

    def difference(self, row: Row) -> str:
        """Return a phrase on how a row's conditions differ; empty where they are the same or unknown."""
        phrases = []
        if row.series and self.name and row.series != self.name:
            phrases.append(row.data or "other images")
        state = (row.branch, row.step)
        is_known = row.kind == "trained" and self.step is not None and state != ("", 0)
        if is_known and state != (self.branch, self.step):
            phrases.append(state_phrase(*state))
        return "; ".join(phrases)


def series_of(results: Results) -> Series:
    """Return the series of the newest sweep; without one, that of the newest step, the teacher's first."""
    accuracies = [row for row in results.rows if row.kind == "trained" and row.k is not None]
    swept = [row for row in accuracies if row.by == BY_SWEEP]
    if swept:
        labels = _labels(swept[-1])
    elif accuracies:
        order = range(len(accuracies))
        newest = max(
            order, key=lambda i: (accuracies[i].step, accuracies[i].branch == "teacher", i)
        )
        labels = _labels(accuracies[newest])
    else:
        labels = Series()
    latencies = _latency_rows(results, labels.conditions.get("crop_size"))
    device = latencies[-1].conditions if latencies else {}
    return replace(
        labels,
        networks=[entry for entry in _entries(results, labels) if entry.kind == "trained"],
        conditions={**device, **labels.conditions},
    )


def entries_of(results: Results) -> list[Entry]:
    """Return the entries of a run: first those of its series, see `series_of`.

    Accuracies before training stand with the trained network. Rows on other images, under another protocol,
    or of another branch or step are entries of the kind OTHER, whose labels say which.
    """
    return _entries(results, series_of(results))


def first_k(entries: Iterable[Entry]) -> int | None:
    """Return the k to show first, see `nearest_k`: one of the entries that are compared if there is any."""
    entries = list(entries)
    compared = {k for entry in entries if entry.kind != OTHER for k in entry.top1}
    return nearest_k(compared or {k for entry in entries for k in entry.top1})


def state_phrase(branch: str, step: int) -> str:
    """Return which branch at which step was evaluated."""
    return f"{branch}, step {step}" if branch else f"step {step}"


def _entries(results: Results, series: Series) -> list[Entry]:
    accuracies = [row for row in results.rows if row.k is not None]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(accuracies, key=lambda row: row.by == BY_SWEEP):
        difference = series.difference(row)
        is_paired = row.kind in ("trained", "untrained") and not difference
        state = () if is_paired else (row.branch, row.step, row.series)
        groups.setdefault((row.kind, row.network, difference, *state), []).append(row)
    latencies: dict[str, dict[str, float]] = {}
    for row in _latency_rows(results, series.conditions.get("crop_size")):
        latencies.setdefault(row.network, {})[row.metric] = row.value
    order = {network.network: i for i, network in enumerate(results.networks)}
    trained = {key[1] for key in groups if key[0] == "trained" and not key[2]} or set(latencies)
    times = Counter(key[:2] for key in groups if not key[2])
    entries = [
        _entry(
            results,
            name,
            groups.get(("trained", name, ""), []),
            groups.get(("untrained", name, ""), []),
            latencies.get(name, {}),
        )
        for name in sorted(trained, key=lambda name: order.get(name, -1))
    ]
    for key, rows in sorted(groups.items(), key=lambda group: bool(group[0][2])):
        kind, name, difference, *labels = key
        if not difference and (kind == "trained" or (kind == "untrained" and name in trained)):
            continue
        label = name if kind == "trained" else f"{kind}: {name}"
        if difference:
            label += f" ({difference})"
        elif times[kind, name] > 1 and labels:
            label += f" ({state_phrase(labels[0], labels[1])})"
        entries.append(_entry(results, label, rows, kind=OTHER if difference else kind))
    return entries


def _entry(
    results: Results,
    label: str,
    rows: Sequence[Row],
    before: Sequence[Row] = (),
    latency: Mapping[str, float] | None = None,
    kind: str = "trained",
) -> Entry:
    """Return an entry; of rows of one k the last counts."""
    network = results.network_of(rows[0]) if rows else _network(results, label)
    return Entry(
        network.network,
        label,
        kind,
        network.aliases,
        network.width,
        network.depth,
        network.params,
        network.flops,
        **(latency or {}),
        top1={row.k: row.value for row in rows if row.k is not None},
        n_test={row.k: row.n for row in rows if row.k is not None and row.n},
        before={row.k: row.value for row in before if row.k is not None},
        n_test_before={row.k: row.n for row in before if row.k is not None and row.n},
    )


def _network(results: Results, name: str) -> Network:
    return next((n for n in results.networks if n.network == name), Network(name))


def _labels(row: Row) -> Series:
    """Return the series of a row, without its networks."""
    state: tuple[str | None, int | None] = (row.branch, row.step)
    if state == ("", 0):
        state = (None, None)
    labels = {"branch": state[0], "step": state[1], "data": row.data, "n_test": row.n}
    recorded = {name: value for name, value in labels.items() if value}
    return Series((), *state, row.series, {**recorded, **row.conditions})


def _latency_rows(results: Results, size: int | None) -> list[Row]:
    """Return the latencies for images of a size, of the device that was measured last."""
    rows = [
        row
        for row in results.rows
        if row.protocol == "latency"
        and (not size or row.conditions.get("crop_size") in (None, size))
    ]
    return [row for row in rows if _device(row) == _device(rows[-1])]


def _device(row: Row) -> list[Any]:
    return [row.conditions.get(name) for name in DEVICE]


def latency_text(entry: Entry, unit: str = "") -> str:
    """Return a latency in milliseconds as text, such as `5.9 ±0.3`; `-` if it was not measured.

    Half of the rounds lie within what stands after `±`. A `?` marks a latency that is not reliable.
    """
    if entry.latency_ms is None:
        return "-"
    mark = "" if entry.usable_latency is not None else " ?"
    return f"{milliseconds(entry.latency_ms, entry.latency_spread_ms)}{unit}{mark}"
