"""Planned memory is within 20% of what a process takes, at three sizes, on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from poa_plugin.config.load import load_config
from poa_plugin.plan.devices import Device
from poa_plugin.plan.numbers import count

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
CPU = Device("a CPU", 10**12, None, False)
SIZES = {
    "small": ["demo_vit"],
    "medium": [
        "swin",
        "student.swin.min_width=64",
        "student.swin.max_width=96",
        "student.swin.max_depths=[2,2,6,2]",
        "train.shards=2",
        "train.batch_size_per_shard=4",
        "train.precision=fp32",
        "dino.head_n_prototypes=[8192,16384]",
    ],
    "large": [
        "resnet",
        "student.resnet.max_depths=[3,4,6,3]",
        "student.resnet.min_depths=[3,4,4,3]",
        "train.shards=2",
        "train.batch_size_per_shard=8",
        "train.precision=fp32",
    ],
}
"""Some 0.3, 1.5 and 5 GB."""


def measured(arguments: list[str]) -> int:
    """Return the most memory that two steps take above what a process has that took one of a small network.

    glibc is told to give freed memory back: what it keeps for later is in use by nobody.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.peak", *arguments],
        cwd=ROOT,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("size", SIZES)
def test_peaks(size: str) -> None:
    if size == "large" and "POA_LARGE" not in os.environ:
        pytest.skip("takes minutes and 5 GB: POA_LARGE=1 runs it")
    arguments = [*SIZES[size], "data.path=/data", "data.num_workers=0", "train.device=cpu"]
    numbers = count(load_config(arguments[0], arguments[1:]), CPU)
    planned = numbers.bytes_needed(CPU) - numbers.parts["libraries"]
    assert planned == pytest.approx(measured(arguments), rel=0.2)
