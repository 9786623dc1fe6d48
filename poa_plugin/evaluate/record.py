"""What a run's folder says about the run: its configuration, metrics, evaluations and sweep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from poa_plugin.errors import UserError
from poa_plugin.evaluate.results import KnnRow, read_rows
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, read_sweep

FILES = ("config.yaml", "metrics.jsonl", "eval/knn.json", "eval/sweep.json")


@dataclass(frozen=True)
class Entry:
    """One network with all that is known of it: a line of the page's table, and a point.

    Attributes:
        network: its name; `label` is the name as it is shown, `aliases` are its further names.
        kind: one of `poa_plugin.evaluate.results.KINDS`.
        width, depth, params, flops, latency_ms: None where it is not known.
        top1, before: accuracy in percent by k; the same network's before training.
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
    top1: Mapping[int, float] = field(default_factory=dict)
    before: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder describes it; what the folder does not hold is empty.

    Attributes:
        name: the folder's.
        config: the text of `config.yaml`; `settings` are its values by dotted key.
        lines: of `metrics.jsonl`.
        entries: its networks, and what they are compared with.
        conditions: of its sweep.
        n_left_out: rows of `knn.json` that are not among the entries, since the sweep has the network.
    """

    name: str
    config: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[dict[str, Any]] = ()
    entries: Sequence[Entry] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    n_left_out: int = 0


def read_record(run: Path) -> RunRecord:
    """Read everything that a page shows about a run.

    Raises:
        UserError: the folder is not a run's, holds nothing to show, or a file in it is damaged.
    """
    if not any((run / name).is_file() for name in FILES):
        raise UserError(
            f"'{run}' is not the output folder of a run: there is no {', no '.join(FILES[:-1])} "
            f"and no {FILES[-1]}."
        )
    lines, rows, sweep = (
        read_metrics(run / "metrics.jsonl"),
        read_rows(run / "eval"),
        read_sweep(run / "eval"),
    )
    if not lines and not rows and not (sweep and sweep.networks):
        raise UserError(f"'{run}' has nothing to show yet: no metrics and no evaluation.")
    entries, n_left_out = merge_results(rows, sweep)
    text, settings = _read_config(run / "config.yaml")
    conditions = sweep.conditions if sweep else {}
    return RunRecord(run.resolve().name, text, settings, lines, entries, conditions, n_left_out)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; none if there is no file.

    A last line that is cut off, as a run that was killed leaves it, is left out.

    Raises:
        UserError: another line is damaged, or has no step, loss or terms.
    """
    if not file.is_file():
        return []
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(_line(text))
        except ValueError as error:
            if number < len(texts):
                raise UserError(f"Line {number} of '{file}' cannot be read: {error}.") from error
    return lines


def merge_results(rows: Sequence[KnnRow], sweep: Sweep | None) -> tuple[list[Entry], int]:
    """Return the entries of a run's k-NN rows and its sweep, and how many rows are not among them.

    A network that the sweep evaluated is shown as the sweep has it. The rows add what a sweep has not:
    accuracy before training, references, pixels, and networks that it did not evaluate.
    """
    before: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.kind == "untrained":
            before.setdefault(row.network, {})[row.k] = row.top1
    swept = {own.network: own for own in (sweep.networks if sweep else ())}
    evaluated = {name for name, own in swept.items() if own.top1}
    kept = [row for row in rows if row.kind != "trained" or row.network not in evaluated]
    groups = _groups(kept)
    trained = {row.network for row in rows if row.kind == "trained"} | set(swept)
    by_rows = {key[1] for key in groups if key[0] == "trained"}
    entries = [
        _swept_entry(own, before.get(own.network, {}))
        for own in swept.values()
        if own.top1 or own.network not in by_rows
    ]
    times = Counter(key[:2] for key in groups)
    for (kind, name, *state), group in groups.items():
        if kind == "untrained" and name in trained:
            continue
        label = name if kind == "trained" else f"{kind}: {name}"
        if times[kind, name] > 1:
            branch, step = state
            label += f" ({branch}, step {step})" if branch else f" (step {step})"
        entry = _entry(label, group, before.get(name, {}) if kind == "trained" else {})
        if kind == "trained" and name in swept:
            own = swept[name]
            entry = replace(entry, aliases=own.aliases, latency_ms=own.latency_ms)
        entries.append(entry)
    return entries, len(rows) - len(kept)


def _groups(rows: Sequence[KnnRow]) -> dict[tuple[str, str, str, int], list[KnnRow]]:
    """Return rows by kind, network, branch and step: those of one group differ in k alone."""
    groups: dict[tuple[str, str, str, int], list[KnnRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.network, row.branch, row.step), []).append(row)
    return groups


def _swept_entry(own: NetworkResult, before: Mapping[int, float]) -> Entry:
    return Entry(
        network=own.network,
        label=own.network,
        kind="trained",
        aliases=own.aliases,
        width=own.width,
        depth=own.depth,
        params=own.params,
        flops=own.flops,
        latency_ms=own.latency_ms,
        top1=own.top1,
        before=before,
    )


def _entry(label: str, group: Sequence[KnnRow], before: Mapping[int, float]) -> Entry:
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
        before=before,
    )


def _line(text: str) -> dict[str, Any]:
    line = json.loads(text)
    missing = {"step", "loss", "terms"} - set(line if isinstance(line, dict) else ())
    if missing:
        raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
    return dict(line)


def _read_config(file: Path) -> tuple[str, dict[str, str]]:
    if not file.is_file():
        return "", {}
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return text, _flat(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"The configuration in '{file}' cannot be read: {error}.") from error


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings by dotted key, as words."""
    if not isinstance(value, dict):
        return {prefix: "null" if value is None else str(value)} if prefix else {}
    parts = (_flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in value.items())
    return {key: word for part in parts for key, word in part.items()}
