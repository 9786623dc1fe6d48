"""The published code's numbers, and that the comparison can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import main
from tests.parity.golden import Case


@pytest.mark.parametrize("options", [[], ["--chunk", "5"]])
def test_every_golden_number_is_matched(
    golden_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    status = main([str(golden_folder), *options])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "absent  " not in printed


def test_a_changed_number_fails_and_a_missing_file_is_absent(
    golden_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in golden_folder.glob("*"):
        if file.name.startswith(("vit_meta", "vit_state", "vit_inputs", "vit_outputs")):
            shutil.copyfile(file, tmp_path / file.name)
    with np.load(tmp_path / "vit_outputs.npz") as arrays:
        outputs = dict(arrays)
    outputs["w48_d3/global/cls"] = outputs["w48_d3/global/cls"] + np.float32(1e-4)
    np.savez(tmp_path / "vit_outputs.npz", **outputs)
    assert main([str(tmp_path), "--family", "vit"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED  vit w48_d3/global/cls" in printed
    assert printed.count("FAILED") == 1
    assert "absent  heads, losses, schedules" in printed


def test_not_a_number_is_a_failure() -> None:
    assert Case("nan", float("nan"), 1.0).failed
