"""What the demo leaves: every network evaluated before and after training, extracted, and on the page.

In CI that is the run of `make demo`, which fails by itself unless every network has learned; elsewhere one with
seconds of training.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.demo import count_better
from poa_plugin.runs.entries import entries_of
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "configs/ssl/demo_vit.yaml")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo."""
    made = ROOT / "build/demo"
    if (made / "poa/report/index.html").is_file():
        return made
    folder = tmp_path_factory.mktemp("demo")
    main(["demo", RECIPE, "--to", str(folder), "--minutes", "0.7"])
    return folder


def test_what_the_demo_leaves(demo: Path) -> None:
    results = read_results(demo / "poa/eval")
    assert count_better(entries_of(results))[1] == 20
    kinds = [row.kind for row in results.rows]
    assert kinds.count("untrained") >= 20
    assert kinds.count("reference") >= 1
    assert kinds.count("pixels") >= 1
    assert len(list((demo / "networks").glob("*/model.safetensors"))) == 20
    assert "reference: dinov2" in (demo / "poa/report/index.html").read_text()
    assert not open_run(demo / "dinov2").config.loss.terms.same_view


def test_the_demo_again(demo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It trains nothing again, and its results are the same."""
    again = tmp_path / "demo"
    shutil.copytree(demo, again)
    main(["demo", RECIPE, "--to", str(again), "--minutes", "0.7"])
    said = capfd.readouterr().out
    assert said.count("already trained to its last step") + said.count("Resuming from") >= 2
    is_same = read_results(again / "poa/eval") == read_results(demo / "poa/eval")
    assert is_same or "Resuming from" in said
