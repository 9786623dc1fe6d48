"""A package of another project is installed, its own tests pass, and `poa` uses what it registers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tests/third_party/poa_mixer"
TINY = "site/poa_mixer/tiny.yaml"
COMMANDS = """
import sys
from poa_plugin.cli import main
for line in sys.stdin.read().splitlines():
    status = main(line.split())
    assert status == 0, (line, status)
"""
"""Runs the commands of the standard input in one process: each by itself loads torch for seconds."""

Run = Callable[..., str]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it is installed in `site`, its source in `source`, and images."""
    folder = tmp_path_factory.mktemp("third_party")
    source = folder / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    words = "install --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", *words.split(), "--target", folder / "site", source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for split, count in (("train", 16), ("test", 8)):
        labels = np.arange(count) % 2
        pixels = rng.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
        pixels[labels == 1] //= 4
        np.save(folder / f"images/{split}.npy", pixels)
        np.save(folder / f"images/{split}_labels.npy", labels)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Return a function that runs Python in that folder, with the package, and returns what it prints."""

    def python(*words: str, site: str = "site", stdin: str = "") -> str:
        path = os.pathsep.join([str(folder / site), str(ROOT)])
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr
        return done.stdout

    return python


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run) -> Path:
    """The run of three steps of the package's recipe."""
    run("-m", "poa_plugin", "train", TINY, "data.path=images", "output_dir=run", "train.threads=1")
    return folder / "run"


def test_its_own_tests_pass(run: Run) -> None:
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "source")
    assert " passed" in said
    assert "skipped" not in said


def test_poa_trains_and_extracts_and_evaluates_it(folder: Path, trained: Path, run: Run) -> None:
    terms = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["terms"]
    assert {"covariance_intact", "covariance_elastic"} <= set(terms)
    said = run(
        "-c",
        COMMANDS,
        stdin="data check images --dataset npy\n"
        "networks demo_vit student.arch=mixer student.mixer.max_width=448\n"
        "extract run --network smallest --to small\n"
        "sweep run --eval knn --k 3 --threads 1\n",
    )
    assert "train: 16 images; classes: 2, images of each: 8" in said
    assert "w448_d24" in said
    assert "Wrote 1 network to 'small'." in said
    assert "w48_d4" in said
    results = json.loads((trained / "eval/results.json").read_text())
    assert "w24_d2" in json.dumps(results)


def test_an_extracted_network_needs_the_package_on_the_path_alone(
    folder: Path, trained: Path, run: Run
) -> None:
    """In `source` the package is not installed: what names it is the folder's `config.json`."""
    commands = "extract run --network intact --to intact\nexport intact --format pt2 --to program\n"
    said = run("-c", COMMANDS, site="source", stdin=commands)
    assert "The features of three images agree" in said
    facts = json.loads((folder / "intact/config.json").read_text())["poa"]
    assert (facts["backbone"], facts["imports"]) == ("mixer", ["poa_mixer"])
    code = "import poa_plugin as poa\nprint(type(poa.load('intact')).__module__)"
    assert run("-c", code, site="source") == "poa_mixer.backbone\n"
