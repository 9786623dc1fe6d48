"""The benchmarks still run, and say what they are for; how fast is for whoever reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def printed(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_data() -> None:
    said = printed("benchmarks/data.py", "--rounds", "2")
    for words in ("ours is 1.00 x", "differ by", "hue, 96"):
        assert words in said


def test_sweep() -> None:
    """Features are compared in it."""
    argv = ("--widths", "384", "--image-size", "32", "--images", "1", "--rounds", "1")
    said = printed("benchmarks/sweep.py", "--family", "vit", *argv)
    assert "161 of 234 (0.688) 0.68" in " ".join(said.split())


def test_open() -> None:
    """All images are there, by the code as it is and as it was."""
    said = printed("benchmarks/open.py", "--images", "3000", "--workers", "2")
    for kind, times in (("image_folder", 2), ("imagenet", 2), ("file_list", 2), ("webdataset", 3)):
        assert said.count(f"\n{kind} ") == times
