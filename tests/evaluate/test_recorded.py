"""What goes from a run's evaluations into an extracted folder: its own network, branch and step only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.evaluate.recorded import recorded_results
from poa_plugin.evaluate.results import KnnRow, write_rows
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, write_sweep


def test_nothing_is_recorded_before_an_evaluation(tmp_path: Path) -> None:
    assert recorded_results(tmp_path / "eval", "w32_d2", "teacher", 4) == []


def test_knn_and_sweep_of_one_network_at_one_step(tmp_path: Path) -> None:
    def row(network: str, kind: str, k: int, top1: float, step: int, branch: str) -> KnnRow:
        return KnnRow(network, kind, k, top1, branch=branch, step=step)

    write_rows(
        tmp_path,
        [
            row("w32_d2", "trained", 20, 71.0, 4, "teacher"),
            row("w32_d2", "trained", 30, 1.0, 3, "teacher"),
            row("w32_d2", "trained", 40, 2.0, 4, "student"),
            row("w32_d2", "untrained", 20, 3.0, 0, "teacher"),
            row("w32_d3", "trained", 20, 4.0, 4, "teacher"),
        ],
    )
    networks = [
        NetworkResult("w32_d2", (), 32, 2, 1, 1, top1={10: 69.0, 20: 70.0}),
        NetworkResult("w32_d3", (), 32, 3, 1, 1, top1={10: 5.0}),
    ]
    write_sweep(tmp_path, Sweep({"branch": "teacher", "step": 4}, networks))
    assert recorded_results(tmp_path, "w32_d2", "teacher", 4) == [
        {"k": 10, "top1": 69.0, "by": "poa sweep"},
        {"k": 20, "top1": 71.0, "by": "poa eval knn"},
    ]
    assert recorded_results(tmp_path, "w32_d2", "teacher", 5) == []


def test_uncertainty_is_recorded_where_the_number_of_images_is_known(tmp_path: Path) -> None:
    networks = [
        NetworkResult(f"w32_d{i}", (), 32, i, i, 1, top1={20: top1})
        for i, top1 in ((2, 70.0), (3, 72.0), (4, 60.0))
    ]
    conditions = {"branch": "teacher", "step": 4, "n_test": 600}
    write_sweep(tmp_path, Sweep(conditions, networks))
    near, best, far = (recorded_results(tmp_path, own.network, "teacher", 4)[0] for own in networks)
    assert near["n_test"] == 600
    assert near["standard_error"] == pytest.approx(1.871, abs=1e-3)
    assert (near["best"], near["best_top1"]) == ("w32_d3", 72.0)
    assert [own["distinguishable_from_best"] for own in (near, best, far)] == [False, False, True]
    row = KnnRow("w32_d2", "trained", 20, 71.0, branch="teacher", step=4, n_test=600)
    write_rows(tmp_path, [row])
    [near] = recorded_results(tmp_path, "w32_d2", "teacher", 4)
    assert (near["by"], near["best"], near["top1"]) == ("poa eval knn", "w32_d2", 71.0)


def test_accuracies_on_other_images_stand_beside_each_other(tmp_path: Path) -> None:
    """That of other images is not taken for the sweep's, and the best one is of the same images."""
    conditions = {"branch": "teacher", "step": 4, "n_test": 600, "protocol": "a", "data": "pets"}
    networks = [NetworkResult("w32_d2", (), 32, 2, 1, 1, top1={20: 70.0})]
    write_sweep(tmp_path, Sweep(conditions, networks))
    row = KnnRow("w32_d2", "trained", 20, 99.0, branch="teacher", step=4, n_test=600)
    write_rows(tmp_path, [replace(row, protocol="b", data="cars")])
    found = recorded_results(tmp_path, "w32_d2", "teacher", 4)
    assert [(own["top1"], own["data"], own["best_top1"]) for own in found] == [
        (70.0, "pets", 70.0),
        (99.0, "cars", 99.0),
    ]
    write_rows(tmp_path, [replace(row, protocol="a", data="pets")])
    [own] = recorded_results(tmp_path, "w32_d2", "teacher", 4)
    assert own["by"] == "poa eval knn"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"sweep\.json' cannot be read"):
        recorded_results(tmp_path, "w32_d2", "teacher", 4)
