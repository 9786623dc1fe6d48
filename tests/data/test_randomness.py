"""Generators are functions of their purpose and key, the same on every machine and in every version."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from poa_plugin.randomness import numpy_generator, torch_generator


def test_pinned() -> None:
    """A change of these numbers changes every run that is resumed or repeated."""
    assert numpy_generator("crops", 0, 1, 2, 3).bit_generator.random_raw() == 12762417609064051672
    assert torch_generator("drop path", 0, 1, 2).initial_seed() == 4729412416604583444


def test_purpose_and_every_number_count() -> None:
    keys = [("crops", 0, 1), ("masks", 0, 1), ("crops", 1, 0), ("crops", 0, 2), ("crops", 2**40, 1)]
    assert len({numpy_generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert len({torch_generator(*key).initial_seed() for key in keys}) == len(keys)


def test_another_process_draws_the_same() -> None:
    program = (
        "from poa_plugin.randomness import numpy_generator as g; print(g('order', 3, 4).random())"
    )
    actual = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert float(actual.stdout) == pytest.approx(numpy_generator("order", 3, 4).random(), abs=0)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_generator("crops", 0))
    assert torch.equal(torch.get_rng_state(), before)
