"""What earlier versions wrote, as results: `knn.json` and `sweep.json`, and the state of sweeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from poa_plugin.runs.results import Network, Results, Row, check, conditions_name, damaged
from poa_plugin.runs.uncertainty import standard_error

KNN, SWEEP = "knn.json", "sweep.json"
BY_KNN, BY_SWEEP = "poa eval knn", "poa sweep"
SIZES = ("width", "depth", "params", "flops")
ARCHITECTURE = ("family", "options", "image_size")
IMAGES = ("images", "crops", "resize_size", "crop_size", "decoded_size", "temperature")
DEVICE = ("device", "threads", "torch")
LABELS = ("run", "family", "step", "branch", "protocol", "data", "ks", "n_test", "image_size")
"""Conditions of a sweep that have another place in a row, or none."""

Records = Iterator[tuple[list[Row], list[Network]]]


def read_former_results(folder: Path) -> Results:
    """Return what earlier versions left in `RUN/eval`, oldest first.

    Raises:
        UserError: a file is damaged.
    """
    results = Results()
    for file in (*sorted(folder.glob(f"knn/*/{KNN}")), folder / KNN):
        if file.is_file():
            with damaged(file):
                aside = "former" if file.parent.name == "former" else ""
                for record in _load(file):
                    results = results.merged(*_from_knn(record, aside))
    if (folder / SWEEP).is_file():
        with damaged(folder / SWEEP):
            for rows, networks in _from_sweep(folder):
                results = results.merged(rows, networks)
    return results


def _from_knn(record: Mapping[str, Any], aside: str) -> tuple[list[Row], list[Network]]:
    """Return the row of a record; what was set `aside` is comparable with nothing."""
    is_reference = record["kind"] == "reference"
    sizes = {name: record.get(name, 0) for name in SIZES}
    networks = [Network(record["network"], **sizes, is_reference=is_reference)]
    series = {"series": name} if (name := record.get("protocol") or aside) else {}
    labels = Row(
        network=record["network"],
        kind=record["kind"],
        branch=record.get("branch", ""),
        step=record.get("step", 0),
        protocol="knn",
        data=record.get("data", ""),
        metric="",
        value=0.0,
        n=record.get("n_test", 0),
        conditions={"by": BY_KNN, **series},
    )
    rows = _accuracies(labels, {record["k"]: record["top1"]})
    return rows, list(check(Results(rows, networks)).networks if any(sizes.values()) else ())


def _from_sweep(folder: Path) -> Records:
    """Yield the networks of the newest sweep, as its state has them where there is one."""
    sweep = _load(folder / SWEEP)
    newest = dict(sweep["conditions"])
    size = newest.get("image_size") or 0
    series = {"series": newest["protocol"]} if newest.get("protocol") else {}
    others = {name: value for name, value in newest.items() if name not in (*LABELS, *DEVICE)}
    conditions = {**others, "crop_size": size, **series, "by": BY_SWEEP}
    device = {name: newest[name] for name in DEVICE if name in newest}
    states = [(file.parent, _load(file)) for file in sorted(folder.glob("sweep/*/conditions.json"))]
    same = ("step", "branch", "weights")
    if not any(all(state[name] == newest.get(name) for name in same) for _, state in states):
        device |= {"crop_size": size, "by": BY_SWEEP}
        yield from _networks(sweep["networks"], newest, conditions, device)
    for state_folder, state in states:
        images = {name: state[name] for name in IMAGES}
        if conditions_name(images) == newest.get("protocol"):
            yield from _from_state(state_folder, {**newest, **state}, {**images, **series})


def _from_state(folder: Path, state: Mapping[str, Any], images: Mapping[str, Any]) -> Records:
    """Yield what a sweep noted network by network, with all conditions, so that it can be resumed."""
    architecture = conditions_name({name: state[name] for name in ARCHITECTURE})
    weights = {"architecture": architecture, "weights": state["weights"]}
    records = [_load(file) for file in sorted(folder.glob("networks/*.json"))]
    yield from _networks(records, state, {**weights, **images, "by": BY_SWEEP}, {})
    for file in sorted(folder.glob("latency/*/conditions.json")):
        device = {name: _load(file)[name] for name in (*DEVICE, "crop_size")}
        conditions = {"architecture": architecture, **device, "by": BY_SWEEP}
        for measured in sorted(file.parent.glob("networks/*.json")):
            times = _load(measured)
            record = {"latency_ms": times["milliseconds"], "latency_spread_ms": times["spread"]}
            yield _latencies(measured.stem, record, conditions), []


def _networks(
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[str, Any],
    conditions: Mapping[str, Any],
    device: Mapping[str, Any],
) -> Records:
    """Yield networks with sizes, accuracies and latency; a damaged one raises a `ValueError`.

    Args:
        records: of a sweep.
        labels: the sweep's branch, step, data and test images.
        conditions, device: of its accuracies and latencies.
    """
    allowed = {"network", "aliases", *SIZES, "top1", "latency_ms", "latency_spread_ms"}
    for record in records:
        if unknown := set(record) - allowed:
            raise ValueError(f"unknown {', '.join(map(repr, sorted(unknown)))}")
        network = Network(
            record["network"],
            **{name: record[name] for name in SIZES},
            image_size=conditions["crop_size"],
            aliases=tuple(record["aliases"]),
        )
        row = Row(
            network=network.network,
            kind="trained",
            branch=labels.get("branch") or "",
            step=labels.get("step") or 0,
            protocol="knn",
            data=labels.get("data") or "",
            metric="",
            value=0.0,
            n=labels.get("n_test") or 0,
            conditions=conditions,
        )
        rows = _accuracies(row, record["top1"]) + _latencies(network.network, record, device)
        check(Results(rows, [network]))
        yield rows, [network]


def _accuracies(labels: Row, top1: Mapping[Any, Any]) -> list[Row]:
    """Return the row of each k, with its standard error where the number of images is recorded."""
    rows = [replace(labels, metric=f"top1_k{int(k)}", value=value) for k, value in top1.items()]
    check(Results(rows))
    return [
        replace(row, standard_error=standard_error(row.value, row.n)) if row.n else row
        for row in rows
    ]


def _latencies(network: str, record: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[Row]:
    return [
        Row(network, "trained", "", 0, "latency", "", name, record[name], conditions=conditions)
        for name in ("latency_ms", "latency_spread_ms")
        if record.get(name) is not None
    ]


def _load(file: Path) -> Any:
    with damaged(file):
        return json.loads(file.read_text(encoding="utf-8"))
