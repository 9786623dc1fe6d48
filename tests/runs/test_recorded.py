"""What goes from a run's evaluations into an extracted folder: its network, branch and step only."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.runs.recorded import results_by_network
from poa_plugin.runs.results_file import add_results
from tests.example_results import accuracy, latency

STATE = {"branch": "teacher", "step": 4}


def test_nothing_is_recorded_before_an_evaluation(tmp_path: Path) -> None:
    assert results_by_network(tmp_path / "eval", "teacher", 4) == {}


def test_accuracies_of_one_network_at_one_step(tmp_path: Path) -> None:
    rows = [
        accuracy("w32_d2", 70.0, 20, by="poa sweep", **STATE),
        accuracy("w32_d2", 69.0, 10, by="poa sweep", **STATE),
        accuracy("w32_d2", 71.0, 20, **STATE),
        accuracy("w32_d2", 1.0, 30, branch="teacher", step=3),
        accuracy("w32_d2", 2.0, 40, branch="student", step=4),
        accuracy("w32_d2", 3.0, 20, kind="untrained", branch="teacher"),
        accuracy("w32_d3", 4.0, 20, **STATE),
        *latency("w32_d2", latency_ms=5.0),
    ]
    add_results(tmp_path, rows, [])
    assert results_by_network(tmp_path, "teacher", 4)["w32_d2"] == [
        {"k": 10, "top1": 69.0, "by": "poa sweep"},
        {"k": 20, "top1": 71.0, "by": "poa eval knn"},
    ]
    assert results_by_network(tmp_path, "teacher", 5) == {}


def test_uncertainty_is_recorded_where_the_number_of_images_is(tmp_path: Path) -> None:
    top1 = {"w32_d2": 70.0, "w32_d3": 72.0, "w32_d4": 60.0}
    rows = [accuracy(name, value, n=600, **STATE) for name, value in top1.items()]
    add_results(tmp_path, rows, [])
    near, best, far = (results_by_network(tmp_path, "teacher", 4)[name][0] for name in top1)
    assert near["n_test"] == 600
    assert near["standard_error"] == pytest.approx(1.871, abs=1e-3)
    assert (near["best"], near["best_top1"]) == ("w32_d3", 72.0)
    results = (near, best, far)
    assert [row["distinguishable_from_best"] for row in results] == [False, False, True]


def test_accuracies_on_other_images_stand_beside_each_other(tmp_path: Path) -> None:
    """The best one is of the same images."""
    rows = [
        accuracy("w32_d2", 70.0, n=600, series="a", data="pets", **STATE),
        accuracy("w32_d2", 99.0, n=600, series="b", data="cars", **STATE),
    ]
    add_results(tmp_path, rows, [])
    results = results_by_network(tmp_path, "teacher", 4)["w32_d2"]
    assert [(row["top1"], row["data"], row["best_top1"]) for row in results] == [
        (70.0, "pets", 70.0),
        (99.0, "cars", 99.0),
    ]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json' cannot be read"):
        results_by_network(tmp_path, "teacher", 4)["w32_d2"]
