"""Results: what was written is what is read, and rows of other conditions stand beside each other."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.runs.entries import Entry, series_of
from poa_plugin.runs.results import Network, Results, Row
from poa_plugin.runs.results_file import add_results, read_results
from tests.example_results import accuracy, latency

NETWORKS = [
    Network("w8_d2", 8, 2, 100, 1000, 32, ("smallest", "tiny")),
    Network("w16_d2", 16, 2, 400, 4000, 32),
]
ROWS = [
    accuracy("w8_d2", 60.0, 5, n=600, branch="teacher", step=4, series="a", data="pets"),
    *latency("w8_d2", latency_ms=0.123456, latency_spread_ms=0.5),
    accuracy("w16_d2", 50.0, 5),
]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_results(tmp_path) == Results()
    add_results(tmp_path, ROWS, NETWORKS)
    assert read_results(tmp_path) == Results(ROWS, NETWORKS)
    add_results(tmp_path, [], [])
    assert read_results(tmp_path) == Results(ROWS, NETWORKS)
    assert sorted(file.name for file in tmp_path.iterdir() if file.name[0] != ".") == [
        "results.csv",
        "results.json",
    ]


def test_the_table_has_a_line_for_each_row_with_the_networks_sizes(tmp_path: Path) -> None:
    add_results(tmp_path, ROWS, NETWORKS)
    with (tmp_path / "results.csv").open(newline="") as file:
        first, time, _, last = csv.DictReader(file)
    assert (first["network"], first["metric"], first["value"]) == ("w8_d2", "top1_k5", "60.0")
    assert (first["standard_error"], first["n"], first["data"]) == ("2.0", "600", "pets")
    assert (first["params"], first["aliases"]) == ("100", "smallest tiny")
    assert (time["metric"], time["value"], time["standard_error"]) == ("latency_ms", "0.123456", "")
    assert (last["network"], last["standard_error"], last["aliases"]) == ("w16_d2", "", "")


@pytest.mark.parametrize(
    "change",
    [
        {"branch": "student"},
        {"step": 5},
        {"kind": "untrained"},
        {"protocol": "linear"},
        {"metric": "top1_k20"},
        {"network": "w16_d2"},
        {"conditions": {"series": "b", "by": "poa eval knn"}},
        {"conditions": {"series": "a", "by": "poa eval knn", "weights": "other"}},
    ],
)
def test_rows_of_other_conditions_never_replace_each_other(
    tmp_path: Path, change: dict[str, object]
) -> None:
    other = replace(ROWS[0], value=1.0, **change)
    add_results(tmp_path, ROWS[:1], NETWORKS)
    assert add_results(tmp_path, [other], []).rows == [ROWS[0], other]
    newer = replace(ROWS[0], value=2.0, n=7, conditions={**ROWS[0].conditions, "by": "poa sweep"})
    assert add_results(tmp_path, [newer], []).rows == [other, newer], "the same thing, later"


def test_a_network_has_the_size_of_the_rows_image_size_and_run() -> None:
    larger = replace(NETWORKS[0], flops=9000, image_size=96)
    reference = Network("w8_d2", 80, 5, 7, is_reference=True)
    results = Results((), [*NETWORKS, larger, reference])
    row = Row("w8_d2", "trained", "", 0, "knn", "", "top1_k5", 1.0, conditions={"crop_size": 96})
    assert results.network_of(row) == larger
    assert results.network_of(replace(row, conditions={"crop_size": 32})) == NETWORKS[0]
    assert results.network_of(replace(row, kind="reference")) == reference
    assert results.network_of(replace(row, network="w9_d9")) == Network("w9_d9")


def _add(folder: Path, number: int) -> None:
    for k in range(1, 8):
        name = f"w{number}_d2"
        add_results(folder, [accuracy(name, float(k), k)], [Network(name, number)])


def test_processes_that_write_at_once_lose_no_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, n)) for n in range(1, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    results = read_results(tmp_path)
    assert {(row.network, row.k) for row in results.rows} == {
        (f"w{n}_d2", k) for n in range(1, 5) for k in range(1, 8)
    }
    assert len(results.networks) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_of_a_later_version_is_a_sentence(tmp_path: Path) -> None:
    add_results(tmp_path, ROWS, NETWORKS)
    record = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(record | {"version": 2}))
    with pytest.raises(UserError, match=r"results\.json' cannot be read: .* later version"):
        read_results(tmp_path)


def test_the_series_of_a_run() -> None:
    """The newest sweep; without one the newest step, and the teacher before the student."""
    rows = [accuracy("w8_d2", 1.0 + step, branch=b, step=step) for step, b in ((9, "teacher"),)]
    rows += [accuracy("w8_d2", 3.0, branch="student", step=9), accuracy("w8_d2", 2.0, step=5)]
    series = series_of(Results(rows, NETWORKS))
    assert (series.branch, series.step, series.networks[0].top1) == ("teacher", 9, {20: 10.0})
    rows.append(accuracy("w8_d2", 5.0, branch="student", step=4, by="poa sweep", weights="x"))
    series = series_of(Results(rows, NETWORKS))
    assert (series.branch, series.step, series.networks[0].top1) == ("student", 4, {20: 5.0})
    assert series.conditions["weights"] == "x"
    assert [entry.network for entry in series.networks] == ["w8_d2"]
    assert series_of(Results()).networks == []


def test_latencies_of_the_device_that_was_measured_last() -> None:
    def timed(network: str, device: str, ms: float, size: int = 32) -> Row:
        [row] = latency(network, latency_ms=ms)
        return replace(row, conditions={**row.conditions, "device": device, "crop_size": size})

    rows = [
        accuracy("w8_d2", 60.0, crop_size=32),
        accuracy("w16_d2", 70.0, crop_size=32),
        timed("w8_d2", "a", 1.0),
        timed("w16_d2", "a", 2.0),
        timed("w8_d2", "b", 3.0),
        timed("w8_d2", "c", 4.0, size=64),
    ]
    series = series_of(Results(rows, NETWORKS))
    assert [entry.latency_ms for entry in series.networks] == [3.0, None]
    assert series.conditions["device"] == "b"


def test_which_latencies_are_used() -> None:
    def usable(latency_ms: float | None, spread: float | None) -> float | None:
        return Entry("x", latency_ms=latency_ms, latency_spread_ms=spread).usable_latency

    assert usable(5.9, 0.3) == usable(5.9, None) == 5.9
    assert usable(160.0, 150.0) is usable(math.nan, None) is usable(math.inf, 0.0) is None
    assert usable(None, None) is None
