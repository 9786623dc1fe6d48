"""Files of earlier versions are read as results, and are written over by none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poa_plugin.errors import UserError
from poa_plugin.runs.entries import entries_of, series_of
from poa_plugin.runs.recorded import results_by_network
from poa_plugin.runs.results import by_key, conditions_name
from poa_plugin.runs.results_file import add_results, read_results
from tests.example_results import accuracy

IMAGES = {
    "images": ["1" * 64, "2" * 64],
    "crops": "pillow",
    "resize_size": 8,
    "crop_size": 8,
    "decoded_size": None,
    "temperature": 0.07,
}
SERIES = conditions_name(IMAGES)
ARCHITECTURE = {"family": "vit", "options": {"depth": 4}, "image_size": 48}
CONDITIONS = {
    "run": "run",
    "family": "vit",
    "step": 4,
    "branch": "teacher",
    "weights": "f" * 64,
    "dataset": "pets",
    "image_size": 8,
    "protocol": SERIES,
    "data": "pets, 8 of 8 pixels, temperature 0.07",
    "ks": [1, 3],
    "temperature": 0.07,
    "n_train": 36,
    "n_test": 600,
    "device": "cpu",
    "threads": 2,
    "torch": "2.14",
}


def network(name: str, **changes: Any) -> dict[str, Any]:
    sizes = {"width": 24, "depth": int(name[-1]), "params": 900, "flops": 7000}
    record = {"network": name, "aliases": ["smallest"], **sizes, "top1": {"1": 50.0, "3": 60.0}}
    return {**record, "latency_ms": 5.0, "latency_spread_ms": 0.5, **changes}


def knn_row(name: str, **changes: Any) -> dict[str, Any]:
    sizes = {"width": 24, "depth": 2, "params": 900, "flops": 7000}
    row = {"network": name, "kind": "trained", "k": 3, "top1": 40.0, **sizes}
    state = {"branch": "teacher", "step": 4, "n_test": 600}
    return {**row, **state, "protocol": SERIES, "data": CONDITIONS["data"], **changes}


def write(file: Path, record: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record))


def test_rows_of_knn(tmp_path: Path) -> None:
    rows = [
        knn_row("w24_d2"),
        knn_row("w24_d2", kind="untrained", step=0, top1=30.0),
        knn_row("dinov2", kind="reference", width=80),
        knn_row("raw", kind="pixels", width=0, depth=0, params=0, flops=0, branch="", step=0),
    ]
    write(tmp_path / "knn.json", rows)
    write(tmp_path / "knn/0123/knn.json", [*rows[:1], knn_row("w24_d2", branch="student")])
    results = read_results(tmp_path)
    assert [(row.kind, row.branch, row.step) for row in results.rows] == [
        ("trained", "student", 4),
        ("trained", "teacher", 4),
        ("untrained", "teacher", 0),
        ("reference", "teacher", 4),
        ("pixels", "", 0),
    ]
    first = results.rows[1]
    assert (first.metric, first.value, first.n, first.series) == ("top1_k3", 40.0, 600, SERIES)
    assert first.standard_error == pytest.approx(2.0)
    entries = entries_of(results)
    assert [(entry.label, entry.before) for entry in entries] == [
        ("w24_d2", {3: 30.0}),
        ("reference: dinov2", {}),
        ("pixels: raw", {}),
        ("w24_d2 (student, step 4)", {}),
    ]
    assert entries[0].params == 900


def test_a_sweep(tmp_path: Path) -> None:
    networks = [network("w24_d2"), network("w24_d3", latency_ms=None, latency_spread_ms=None)]
    write(tmp_path / "sweep.json", {"conditions": CONDITIONS, "networks": networks})
    write(tmp_path / "knn.json", [knn_row("w24_d2"), knn_row("w24_d4")])
    series = series_of(read_results(tmp_path))
    assert (series.branch, series.step, series.name) == ("teacher", 4, SERIES)
    assert (series.ks, series.n_test) == ([1, 3], 600)
    assert series.conditions["weights"] == "f" * 64
    by_name = {entry.network: entry for entry in series.networks}
    assert by_name["w24_d2"].top1 == {1: 50.0, 3: 60.0}, "the sweep's, not that of knn.json"
    assert by_name["w24_d4"].top1 == {3: 40.0}
    assert (by_name["w24_d2"].latency_ms, by_name["w24_d2"].latency_spread_ms) == (5.0, 0.5)
    assert by_name["w24_d3"].latency_ms is None
    assert by_name["w24_d2"].aliases == ("smallest",)
    [one, three] = results_by_network(tmp_path, "teacher", 4)["w24_d3"]
    assert (one["k"], three["top1"], three["by"]) == (1, 60.0, "poa sweep")


def test_the_state_of_a_sweep_is_resumed(tmp_path: Path) -> None:
    """Its conditions are those of a row that is written now, so that nothing is evaluated again."""
    write(tmp_path / "sweep.json", {"conditions": CONDITIONS, "networks": [network("w24_d2")]})
    state = tmp_path / "sweep/0123"
    labels = {"step": 4, "branch": "teacher", "weights": "f" * 64}
    write(state / "conditions.json", {**ARCHITECTURE, **labels, **IMAGES})
    untimed = {"latency_ms": None, "latency_spread_ms": None}
    for name in ("w24_d2", "w24_d3"):
        write(state / f"networks/{name}.json", network(name, **untimed))
    device = {"crop_size": 8, "device": "cpu", "threads": 2, "torch": "2.14"}
    write(state / "latency/4567/conditions.json", {**ARCHITECTURE, **device})
    write(state / "latency/4567/networks/w24_d2.json", {"milliseconds": 5.0, "spread": 0.5})
    results = read_results(tmp_path)
    assert len(results.rows) == 2 * 2 + 2
    architecture = conditions_name(ARCHITECTURE)
    now = accuracy(
        "w24_d3",
        60.0,
        3,
        branch="teacher",
        step=4,
        architecture=architecture,
        weights="f" * 64,
        series=SERIES,
        **IMAGES,
    )
    [key] = by_key([now])
    row = results.by_key[key]
    assert (row.value, row.n, row.data) == (60.0, 600, CONDITIONS["data"])
    [timed] = [row for row in results.rows if row.metric == "latency_ms"]
    assert timed.conditions == {"architecture": architecture, **device, "by": "poa sweep"}
    [entry, _] = series_of(results).networks
    assert (entry.latency_ms, entry.top1) == (5.0, {1: 50.0, 3: 60.0})


def test_former_files_are_joined_with_the_first_new_row_and_left_as_they_are(
    tmp_path: Path,
) -> None:
    old = knn_row("w24_d2")
    del old["protocol"], old["data"], old["n_test"]
    write(tmp_path / "knn.json", [old])
    text = (tmp_path / "knn.json").read_text()
    add_results(tmp_path, [accuracy("w24_d3", 1.0, series="a")], [], adopt="a")
    assert [row.series for row in read_results(tmp_path).rows] == ["a", "a"]
    assert (tmp_path / "knn.json").read_text() == text
    (tmp_path / "knn.json").unlink()
    assert len(read_results(tmp_path).rows) == 2


def test_what_was_set_aside_is_comparable_with_nothing(tmp_path: Path) -> None:
    old = knn_row("w24_d2", protocol="", data="")
    write(tmp_path / "knn/former/knn.json", [old])
    write(tmp_path / "sweep.json", {"conditions": {"step": 1}, "networks": [network("w24_d2")]})
    rows = add_results(tmp_path, [accuracy("w24_d3", 1.0, series="a")], [], adopt="a").rows
    assert [row.series for row in rows if row.k] == ["former", "former", "former", "a"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "8"),
        ("params", None),
        ("flops", -1),
        ("latency_ms", "fast"),
        ("aliases", 3),
        ("network", 7),
        ("top1", {"20": "high"}),
        ("top1", {"k": 1.0}),
        ("unknown", 1),
    ],
)
def test_a_damaged_sweep_is_named(tmp_path: Path, name: str, value: object) -> None:
    record = {"conditions": CONDITIONS, "networks": [network("w24_d2", **{name: value})]}
    write(tmp_path / "sweep.json", record)
    with pytest.raises(UserError, match=r"sweep\.json' cannot be read"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("network", 3), ("k", None), ("n_test", -1), ("top1", "1"), ("kind", [])]
)
def test_damaged_rows_are_named(tmp_path: Path, name: str, value: object) -> None:
    write(tmp_path / "knn.json", [knn_row("w24_d2", **{name: value})])
    with pytest.raises(UserError, match=r"knn\.json' cannot be read"):
        read_results(tmp_path)
    for name in ("knn.json", "sweep.json"):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            read_results(tmp_path)
        (tmp_path / name).unlink()
