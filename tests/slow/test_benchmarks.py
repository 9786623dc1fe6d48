"""The benchmarks still run, and say what they are for; how fast is for whoever reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_data() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/data.py", "--rounds", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for words in ("ours is 1.00 x", "differ by", "hue, 96"):
        assert words in done.stdout
