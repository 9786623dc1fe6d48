"""Schedules, beside what `tests.parity` compares with the published numbers at every golden step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from poa_plugin.config.schema import Config
from poa_plugin.train.schedules import Cosine, Schedules, scaled_lr

Make = Callable[..., Config]


def test_a_cosine_at_every_step() -> None:
    """Against the published construction of a whole array at once."""
    base, final, total, warmup = 0.005, 2e-5, 1000, 37
    ramp = np.linspace(0, base, warmup)
    iterations = np.arange(total - warmup)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * iterations / len(iterations)))
    expected = np.concatenate([ramp, cosine])
    schedule = Cosine(base, final, total, warmup)
    actual = [schedule(step) for step in range(total)]
    assert actual == pytest.approx(expected, abs=1e-15)
    assert schedule(total) == schedule(10 * total) == final


def test_no_warm_up() -> None:
    assert Cosine(1.0, 0.0, 10)(0) == 1.0


def test_the_last_layer_waits(small_config: Make) -> None:
    schedules = Schedules(small_config("train.OFFICIAL_EPOCH_LENGTH=5"))
    assert schedules(4).last_layer_lr == 0
    assert schedules(5).last_layer_lr == schedules(5).lr > 0


def test_scaling_rules(small_config: Make) -> None:
    overrides = ("train.shards=32", "train.batch_size_per_shard=50")
    assert scaled_lr(small_config(*overrides)) == pytest.approx(0.005)
    assert scaled_lr(small_config(*overrides, "optim.scaling_rule=none")) == 0.004


def test_a_stretched_schedule_does_not_reach_its_end(small_config: Make) -> None:
    schedules = Schedules(small_config("train.shards=32", "train.batch_size_per_shard=50"))
    last = schedules(schedules.total_steps - 1)
    assert last.lr == pytest.approx(6.2e-4, rel=0.01)
    assert last.weight_decay == pytest.approx(0.359, rel=0.01)
    assert last.momentum == pytest.approx(0.99899, abs=1e-5)
    assert last.teacher_temp == 0.07
