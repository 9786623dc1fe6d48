"""What a run's folder says about the run: its configuration, metrics, evaluations and sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from poa_plugin.config.renamed import current_names
from poa_plugin.errors import UserError
from poa_plugin.runs.curves import Losses, loss_curves, skipped_ranges
from poa_plugin.runs.front import nearest_k, usable_latency
from poa_plugin.runs.results import KnnRow, read_rows
from poa_plugin.runs.sweep_results import NetworkResult, Sweep, read_sweep
from poa_plugin.runs.training_lines import read_metrics, read_skipped

OTHER = "other"
"""The kind of an entry that was evaluated under other conditions than those it stands beside."""

FILES = ("config.yaml", "metrics.jsonl", "eval/knn.json", "eval/sweep.json")


@dataclass(frozen=True)
class Entry:
    """One network with all that is known of it: a line of the page's table, and a point.

    Attributes:
        network: its name; `label` is the name as it is shown, `aliases` are its further names.
        kind: one of `poa_plugin.runs.results.KINDS`, or OTHER.
        width, depth, params, flops: None where it is not known.
        latency_ms: the median, None where it is not known; `latency_spread_ms` is the distance between the
            quartiles, and `latency_is_reliable` tells whether the latency can be compared.
        top1, before: accuracy in percent by k; the same network's before training.
        n_test, n_test_before: images that these were measured on by k, as far as that is known.
    """

    network: str
    label: str
    kind: str
    aliases: tuple[str, ...] = ()
    width: int | None = None
    depth: int | None = None
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    latency_spread_ms: float | None = None
    latency_is_reliable: bool = True
    top1: Mapping[int, float] = field(default_factory=dict)
    before: Mapping[int, float] = field(default_factory=dict)
    n_test: Mapping[int, int] = field(default_factory=dict)
    n_test_before: Mapping[int, int] = field(default_factory=dict)

    @property
    def usable_latency(self) -> float | None:
        """The latency in milliseconds if it is known and reliable."""
        return self.latency_ms if self.latency_is_reliable else None


SIZES: dict[str, Callable[[Entry], float | None]] = {
    "params": lambda entry: entry.params,
    "flops": lambda entry: entry.flops,
    "latency": lambda entry: entry.usable_latency,
}
"""What accuracy is drawn against, and what is small on the Pareto front."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder describes it; what the folder does not hold is empty.

    Attributes:
        name: the folder's.
        config: the text of `config.yaml`; `settings` are its values by dotted key.
        lines: of `metrics.jsonl`.
        skipped: the steps that were skipped, in increasing order, as `skipped_steps.jsonl` has them.
        entries: its networks, and what they are compared with.
        conditions: of its sweep.
        n_left_out: rows of `knn.json` that are not among the entries, since the sweep has the network.
    """

    name: str
    config: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[dict[str, Any]] = ()
    skipped: Sequence[int] = ()
    entries: Sequence[Entry] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    n_left_out: int = 0

    @cached_property
    def losses(self) -> Losses | None:
        """The curves of its losses; None if there are none."""
        return loss_curves(self.lines)

    @cached_property
    def skipped_ranges(self) -> list[tuple[int, int, int]]:
        """Where steps were skipped; see `curves.skipped_ranges`."""
        return skipped_ranges(self.lines, self.skipped)


def read_record(run: Path, results: Path | None = None) -> RunRecord:
    """Read everything that a page shows about a run.

    Args:
        run: its folder.
        results: where its results lie, if not in `RUN/eval`.

    Raises:
        UserError: the folder is not a run's, holds nothing to show, or a file in it is damaged.
    """
    if not any((run / name).is_file() for name in FILES):
        raise UserError(
            f"'{run}' is not the output folder of a run: there is no {', no '.join(FILES[:-1])} "
            f"and no {FILES[-1]}."
        )
    lines = read_metrics(run / "metrics.jsonl")
    results = results or run / "eval"
    rows, sweep = read_rows(results), read_sweep(results)
    if not lines and not rows and not (sweep and sweep.networks):
        raise UserError(f"'{run}' has nothing to show yet: no metrics and no evaluation.")
    entries, n_left_out = merge_results(rows, sweep)
    text, settings = _read_config(run / "config.yaml")
    return RunRecord(
        name=printable(run.resolve().name),
        config=text,
        settings=settings,
        lines=lines,
        skipped=read_skipped(run / "skipped_steps.jsonl"),
        entries=entries,
        conditions=sweep.conditions if sweep else {},
        n_left_out=n_left_out,
    )


def printable(name: str) -> str:
    """Return a file's name as text that can be written, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def merge_results(rows: Sequence[KnnRow], sweep: Sweep | None) -> tuple[list[Entry], int]:
    """Return the entries of a run's k-NN rows and its sweep, and how many rows are not among them.

    A network that the sweep evaluated is shown as the sweep has it. The rows add what a sweep has not:
    accuracy before training, references, pixels, and networks that it did not evaluate. Rows on other images,
    under another protocol, or of another branch or step are entries of the kind OTHER, whose labels say which.
    """
    series = Series.of(rows, sweep)
    swept = {own.network: own for own in (sweep.networks if sweep else ())}
    evaluated = {name for name, own in swept.items() if own.top1}
    kept = [
        row
        for row in rows
        if row.kind != "trained" or row.network not in evaluated or series.apart(row)
    ]
    groups = _groups(kept)
    before = {key: group for key, group in groups.items() if key[0] == "untrained"}
    own_rows = [row for row in rows if not series.apart(row)]
    trained = {row.network for row in own_rows if row.kind == "trained"} | set(swept)
    by_rows = {row.network for row in kept if row.kind == "trained" and not series.apart(row)}
    entries = [
        swept_entry(own, sweep.n_test if sweep else 0, _untrained(before, own.network, series))
        for own in swept.values()
        if own.top1 or own.network not in by_rows
    ]
    times = Counter(state[:2] for state in {key[:4] for key in groups})
    for (kind, name, branch, step, _), group in groups.items():
        words = series.apart(group[0])
        if kind == "untrained" and name in trained and not words:
            continue
        label = name if kind == "trained" else f"{kind}: {name}"
        if words:
            label += f" ({words})"
        elif times[kind, name] > 1:
            label += f" ({state_words(branch, step)})"
        is_own = kind == "trained" and not words
        entry = _entry(label, group, _untrained(before, name, series) if is_own else ())
        if words:
            entry = replace(entry, kind=OTHER)
        elif kind == "trained" and name in swept:
            entry = replace(entry, aliases=swept[name].aliases, **_latency(swept[name]))
        entries.append(entry)
    return entries, len(rows) - len(kept)


@dataclass(frozen=True)
class Series:
    """Under which conditions the networks were evaluated that are compared with each other.

    Attributes:
        protocol: see `KnnRow`; empty where it is not known.
        state: branch and step, None where they are not known.
    """

    protocol: str = ""
    state: tuple[str, int] | None = None

    @classmethod
    def of(cls, rows: Sequence[KnnRow], sweep: Sweep | None) -> Series:
        """Return the conditions of a sweep; without one, those of the rows of the newest step."""
        if sweep is not None and any(own.top1 for own in sweep.networks):
            found = sweep.conditions
            branch, step = found.get("branch"), found.get("step")
            state = (branch, step) if isinstance(branch, str) and isinstance(step, int) else None
            return cls(str(found.get("protocol", "")), state)
        trained = [row for row in rows if row.kind == "trained"]
        if not trained:
            return cls()
        newest = max(trained, key=lambda row: (row.step, row.branch == "teacher"))
        return cls(newest.protocol, (newest.branch, newest.step))

    def apart(self, row: KnnRow) -> str:
        """Return in words how a row's conditions differ; nothing where they are the same or not known."""
        words = []
        if row.protocol and self.protocol and row.protocol != self.protocol:
            words.append(row.data or "other images")
        state = (row.branch, row.step)
        if row.kind == "trained" and self.state not in (None, state) and state != ("", 0):
            words.append(state_words(*state))
        return "; ".join(words)


def state_words(branch: str, step: int) -> str:
    """Return in words which branch at which step was evaluated."""
    return f"{branch}, step {step}" if branch else f"step {step}"


def first_k(entries: Iterable[Entry]) -> int | None:
    """Return the k to show first, see `nearest_k`: one of the entries that are compared if there is any."""
    entries = list(entries)
    own = {k for entry in entries if entry.kind != OTHER for k in entry.top1}
    return nearest_k(own or {k for entry in entries for k in entry.top1})


def _groups(rows: Sequence[KnnRow]) -> dict[tuple[str, str, str, int, str], list[KnnRow]]:
    """Return rows by kind, network, branch, step and protocol: those of one group differ in k alone."""
    groups: dict[tuple[str, str, str, int, str], list[KnnRow]] = {}
    for row in rows:
        key = (row.kind, row.network, row.branch, row.step, row.protocol)
        groups.setdefault(key, []).append(row)
    return groups


def _untrained(
    groups: Mapping[tuple[str, str, str, int, str], Sequence[KnnRow]], name: str, series: Series
) -> list[KnnRow]:
    """Return a network's rows before training that were measured as those of a series."""
    return [
        row
        for key, group in groups.items()
        for row in group
        if key[1] == name and not series.apart(row)
    ]


def swept_entry(own: NetworkResult, n_test: int = 0, before: Sequence[KnnRow] = ()) -> Entry:
    """Return a network of a sweep as an entry.

    Args:
        own: the network.
        n_test: test images of the sweep, 0 if that is not known.
        before: the network's rows before training.
    """
    return Entry(
        network=own.network,
        label=own.network,
        kind="trained",
        aliases=own.aliases,
        width=own.width,
        depth=own.depth,
        params=own.params,
        flops=own.flops,
        **_latency(own),
        top1=own.top1,
        n_test=dict.fromkeys(own.top1, n_test) if n_test else {},
        **_before(before),
    )


def _latency(own: NetworkResult) -> dict[str, Any]:
    return {
        "latency_ms": own.latency_ms,
        "latency_spread_ms": own.latency_spread_ms,
        "latency_is_reliable": usable_latency(own) is not None,
    }


def _before(rows: Sequence[KnnRow]) -> dict[str, Any]:
    return {
        "before": {row.k: row.top1 for row in rows},
        "n_test_before": {row.k: row.n_test for row in rows if row.n_test},
    }


def _entry(label: str, group: Sequence[KnnRow], before: Sequence[KnnRow]) -> Entry:
    row = group[0]
    return Entry(
        network=row.network,
        label=label,
        kind=row.kind,
        width=row.width or None,
        depth=row.depth or None,
        params=row.params or None,
        flops=row.flops or None,
        top1={own.k: own.top1 for own in group},
        n_test={own.k: own.n_test for own in group if own.n_test},
        **_before(before),
    )


def _read_config(file: Path) -> tuple[str, dict[str, str]]:
    if not file.is_file():
        return "", {}
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return text, current_names(_flat(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        raise UserError(f"The configuration in '{file}' cannot be read: {error}.") from error


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings by dotted key, as words."""
    if not isinstance(value, dict):
        return {prefix: "null" if value is None else str(value)} if prefix else {}
    parts = (_flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in value.items())
    return {key: word for part in parts for key, word in part.items()}
