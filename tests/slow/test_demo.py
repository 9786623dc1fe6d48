"""The demo, end to end, with seconds of training: everything but the learning."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.demo import count_better
from poa_plugin.runs.entries import entries_of
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RECIPE = str(Path(__file__).resolve().parents[2] / "configs/ssl/demo_vit.yaml")


def test_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = main(["demo", RECIPE, "--to", str(tmp_path), "--minutes", "0.7"])
    printed = capfd.readouterr().out
    results = read_results(tmp_path / "poa/eval")
    better, total = count_better(entries_of(results))
    assert total == 20
    assert status == (0 if better == total else 1)
    assert f"{better} of 20 networks beat their untrained selves" in printed
    kinds = [row.kind for row in results.rows]
    assert (kinds.count("untrained"), kinds.count("reference"), kinds.count("pixels")) == (20, 1, 1)
    assert len(list((tmp_path / "networks").glob("*/model.safetensors"))) == 20
    page = tmp_path / "poa/report/index.html"
    assert str(page) in printed
    assert "reference: dinov2" in page.read_text()
    assert not open_run(tmp_path / "dinov2").config.loss.terms.same_view

    assert main(["demo", RECIPE, "--to", str(tmp_path), "--minutes", "0.7"]) == status
    again = capfd.readouterr().out
    assert again.count("already trained to its last step") + again.count("Resuming from") >= 2
    assert read_results(tmp_path / "poa/eval") == results or "Resuming from" in again
