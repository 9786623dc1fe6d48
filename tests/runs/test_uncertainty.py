"""Standard errors of accuracies, and which differences are more than luck."""

from __future__ import annotations

import numpy as np
import pytest

from poa_plugin.runs.uncertainty import distinguishable, standard_error


def test_the_standard_error_is_the_spread_over_test_sets() -> None:
    draws = np.random.default_rng(0).binomial(656, 0.7, 20_000) / 656 * 100
    assert standard_error(70.0, 656) == pytest.approx(draws.std(), rel=0.02)


def test_a_perfect_accuracy_on_few_images_is_not_certain() -> None:
    assert standard_error(100.0, 16) == standard_error(0.0, 16) > 4


def test_luck_alone_seldom_looks_like_a_difference() -> None:
    pairs = np.random.default_rng(1).binomial(656, 0.7, (5_000, 2)) / 656 * 100
    assert np.mean([distinguishable(a, b, 656) for a, b in pairs]) < 0.06
    assert distinguishable(70.0, 76.0, 656)
    assert not distinguishable(70.0, 74.0, 656)
