"""A sweep's files: what was written is what is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, read_sweep, write_sweep

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
