"""A sweep's files: what was written is what is read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.runs.front import usable_latency
from poa_plugin.runs.sweep_results import NetworkResult, Sweep, read_sweep, write_sweep

SWEEP = Sweep(
    {"run": "runs/x", "ks": [1, 5]},
    [
        NetworkResult("w8_d2", ("smallest",), 8, 2, 100, 1000, 0.123456, {1: 50.0, 5: 60.5}),
        NetworkResult("w16_d2", (), 16, 2, 400, 4000),
    ],
)


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) is None
    write_sweep(tmp_path, SWEEP)
    assert read_sweep(tmp_path) == SWEEP
    assert SWEEP.ks == [1, 5]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["name"] == "w8_d2"
    assert float(first["top1_k5"]) == 60.5
    assert (second["latency_ms"], second["top1_k1"]) == ("", "")


def test_standard_errors_and_spreads_are_in_the_table(tmp_path: Path) -> None:
    networks = [NetworkResult("w8_d2", (), 8, 2, 100, 1000, 2.0, {5: 60.0}, 0.5)]
    write_sweep(tmp_path, Sweep({"n_test": 600}, [*networks, SWEEP.networks[1]]))
    with (tmp_path / "sweep.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["latency_spread_ms"], first["standard_error_k5"]) == ("0.5", "2")
    assert (second["latency_spread_ms"], second["standard_error_k5"]) == ("", "")


def test_a_sweep_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP)
    record = json.loads((tmp_path / "sweep.json").read_text())
    for network in record["networks"]:
        del network["latency_spread_ms"]
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    sweep = read_sweep(tmp_path)
    assert sweep == SWEEP
    assert sweep is not None
    assert sweep.n_test == 0
    assert [usable_latency(own) for own in sweep.networks] == [0.123456, None]


def test_which_latencies_are_used() -> None:
    def known(latency: float | None, spread: float | None) -> float | None:
        return usable_latency(NetworkResult("x", (), 8, 2, 1, 1, latency, {}, spread))

    assert known(5.9, 0.3) == 5.9
    assert known(160.0, 150.0) is known(math.nan, None) is known(math.inf, 0.0) is None


@pytest.mark.parametrize("change", ["{", '{"networks": []}', None])
def test_a_damaged_file_is_named(tmp_path: Path, change: str | None) -> None:
    write_sweep(tmp_path, SWEEP)
    file = tmp_path / "sweep.json"
    if change is None:
        record = json.loads(file.read_text())
        record["networks"][0]["params"] = "many"
        change = json.dumps(record)
    file.write_text(change)
    with pytest.raises(UserError, match=r"sweep\.json' cannot be read"):
        read_sweep(tmp_path)
