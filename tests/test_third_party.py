"""A package of another project registers its own parts: it is installed, its tests run, and `poa` uses it."""

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

PACKAGE = Path(__file__).parent / "third_party/poa_mixer"
ROOT = Path(__file__).resolve().parents[1]
TINY = "site/poa_mixer/tiny.yaml"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's source, the installed package in `site`, and images."""
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
    """Run a command in that folder, with the package installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])}

    def command(*words: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env={**environment, **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return command


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run) -> Path:
    """The run of three steps of the package's recipe."""
    done = run("poa_plugin", "train", TINY, "data.path=images", "output_dir=run", "train.threads=1")
    assert "Traceback" not in done.stderr
    return folder / "run"


def test_its_own_tests_pass(run: Run) -> None:
    done = run("pytest", "-q", "-p", "no:cacheprovider", "source")
    assert " passed" in done.stdout


def test_it_is_trained_and_taken_out_and_evaluated(folder: Path, trained: Path, run: Run) -> None:
    terms = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["terms"]
    assert {"covariance_intact", "covariance_elastic"} <= set(terms)
    run("poa_plugin", "extract", "run", "--network", "smallest", "--to", "small")
    facts = json.loads((folder / "small/config.json").read_text())["poa"]
    assert (facts["backbone"], facts["imports"]) == ("mixer", ["poa_mixer"])
    said = run("poa_plugin", "sweep", "run", "--eval", "knn", "--k", "3", "--threads", "1").stdout
    assert "w48_d4" in said
    said = run("poa_plugin", "export", "small", "--format", "pt2", "--to", "program").stdout
    assert "The features of three images agree" in said
    assert (folder / "program/model.pt2").is_file()
