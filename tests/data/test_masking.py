"""Block masks: counts, shapes, strata and shares."""

from __future__ import annotations

import numpy as np
import pytest

from poa_plugin.data import block_mask, shard_masks


@pytest.mark.parametrize("grid", [(14, 14), (6, 6), (8, 5)])
def test_a_mask_never_exceeds_its_count(grid: tuple[int, int]) -> None:
    rng, total = np.random.default_rng(0), grid[0] * grid[1]
    for count in range(total // 2):
        mask = block_mask(grid, count, rng)
        assert mask.shape == grid
        assert mask.sum() <= count
    assert block_mask(grid, 0, rng).sum() == 0


def test_masks_come_close_to_their_count() -> None:
    rng = np.random.default_rng(0)
    actual = [block_mask((14, 14), 60, rng).sum() for _ in range(200)]
    assert np.mean(actual) > 57


def test_a_first_block_is_smaller_than_the_grid_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = block_mask((14, 14), 5, rng)
        assert not mask.all(axis=0).any()
        assert not mask.all(axis=1).any()


def test_a_shards_masks() -> None:
    masks = shard_masks(101, (14, 14), 0.5, (0.1, 0.5), np.random.default_rng(0))
    assert masks.shape == (101, 196)
    counts = masks.sum(1).sort().values
    assert (counts[:51] == 0).all()
    assert (counts[51:] > 0).all()
    strata = np.linspace(0.1, 0.5, 51) * 196
    shares = counts[51:].numpy()
    assert (shares <= strata[1:]).all()
    assert np.mean(shares / strata[1:]) > 0.85
    assert (masks[: len(masks) // 2].sum(1) > 0).sum() != 50


def test_masks_are_a_function_of_the_generator() -> None:
    first, again, other = (
        shard_masks(8, (6, 6), 0.5, (0.1, 0.5), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)


def test_nothing_is_masked_at_probability_zero() -> None:
    assert not shard_masks(8, (6, 6), 0.0, (0.1, 0.5), np.random.default_rng(0)).any()
