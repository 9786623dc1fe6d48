"""Batches: order, independence of workers and of where a run starts."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from poa_plugin.config.schema import Config
from poa_plugin.data import MultiCropAugmentation, ShardBatch, shard_masks, train_shards
from poa_plugin.data.loader import Batches
from poa_plugin.errors import UserError
from poa_plugin.randomness import numpy_generator
from tests.conftest import Noise

Make = Callable[..., Config]
GRID = (6, 6)


def same(first: ShardBatch, second: ShardBatch) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return bool(torch.equal(a, b)) if isinstance(a, Tensor) else a == b

    return all(equal(value, second[key]) for key, value in first.items())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_workers(small_config: Make, workers: int) -> None:
    batches = []
    for number in (0, workers):
        config = small_config("train.shards=2", f"data.num_workers={number}")
        batches.append(list(train_shards(config, Noise(20), GRID, 1, 4)))
    assert len(batches[0]) == 6
    for first, second in zip(*batches, strict=True):
        assert same(first, second)


def test_a_run_can_start_at_any_step(small_config: Make) -> None:
    config = small_config("train.shards=2")
    uninterrupted = list(train_shards(config, Noise(20), GRID, 0, 5))
    late = list(train_shards(config, Noise(20), GRID, 3, 5))
    for first, second in zip(uninterrupted[6:], late, strict=True):
        assert same(first, second)


def test_shapes(small_config: Make) -> None:
    [batch] = train_shards(small_config(), Noise(5), GRID, 0, 1)
    assert batch["collated_global_crops"].shape == (6, 3, 48, 48)
    assert batch["collated_local_crops"].shape == (6, 3, 32, 32)
    assert batch["collated_masks"].shape == (6, 36)
    assert batch["collated_masks"].dtype == torch.bool
    assert batch["collated_masks"].any(1).sum() == 3
    masked = batch["collated_masks"].flatten().nonzero().flatten()
    assert torch.equal(batch["mask_indices_list"], masked)
    torch.testing.assert_close(batch["masks_weight"].sum(), torch.tensor(3.0))
    assert batch["collated_global_crops"].dtype == torch.uint8
    assert len(batch["image_ids"]) == 3


def test_a_batch_is_made_of_its_key(small_config: Make) -> None:
    """Step 2, shard 1, seed 7, each image on its own; the first view of all images comes first."""
    config, dataset = small_config("train.seed=7", "train.shards=2"), Noise(20)
    [_, batch] = train_shards(config, dataset, GRID, 2, 3)
    order = [
        image for epoch in (0, 1) for image in numpy_generator("order", 7, epoch).permutation(20)
    ]
    assert batch["image_ids"] == order[15:18]
    augmentation = MultiCropAugmentation(config.crops)
    for j, image in enumerate(batch["image_ids"]):
        views = augmentation(dataset.image(image), numpy_generator("crops", 7, 2, 1, j))
        for kind, expected in zip(("global", "local"), views, strict=True):
            actual = batch[f"collated_{kind}_crops"][j::3]
            assert torch.equal(actual, torch.stack(expected))
    masks = shard_masks(6, GRID, 0.5, (0.1, 0.5), numpy_generator("masks", 7, 2, 1))
    assert torch.equal(batch["collated_masks"], masks)


def test_a_batch_across_two_epochs_of_the_data(small_config: Make) -> None:
    batches = Batches(small_config(), Noise(4), GRID)
    seen = [image for step in range(4) for image in batches.image_ids(step, 0)]
    assert all(sorted(seen[i : i + 4]) == [0, 1, 2, 3] for i in (0, 4, 8))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_sentence(small_config: Make, workers: int) -> None:
    class Broken(Noise):
        def image(self, index: int) -> Tensor:
            raise UserError("The image 'a.png' cannot be read.")

    config = small_config(f"data.num_workers={workers}")
    with pytest.raises(UserError) as caught:
        next(train_shards(config, Broken(5), GRID, 0, 1))
    assert str(caught.value) == "The image 'a.png' cannot be read."
    assert not multiprocessing.active_children()  # ended, though the traceback is still held


def test_no_local_crops(small_config: Make) -> None:
    [batch] = train_shards(small_config("crops.local_crops_number=0"), Noise(5), GRID, 0, 1)
    assert len(batch["collated_local_crops"]) == 0


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_image_once_in_an_epoch_of_the_data(small_config: Make, shards: int) -> None:
    """24 images, 3 to a shard: 24 / (3 * shards) steps see each once, whatever the shards."""
    config = small_config(f"train.shards={shards}")
    batches = Batches(config, Noise(24), GRID)
    steps = 24 // (3 * shards)
    for epoch in range(2):
        seen = Counter(
            image
            for step in range(epoch * steps, (epoch + 1) * steps)
            for shard in range(shards)
            for image in batches.image_ids(step, shard)
        )
        assert seen == dict.fromkeys(range(24), 1)


def test_seeds_and_shards_draw_differently(small_config: Make) -> None:
    first = Batches(small_config(), Noise(24), GRID)
    other = Batches(small_config("train.seed=1"), Noise(24), GRID)
    assert first.image_ids(0, 0) != other.image_ids(0, 0)
    one_image = Batches(small_config("train.shards=2"), Noise(3), GRID)
    crops = [one_image[number]["collated_global_crops"] for number in range(4)]
    assert not any(torch.equal(crops[0], other) for other in crops[1:])


def test_too_few_images(small_config: Make) -> None:
    with pytest.raises(UserError, match="has 2 images, fewer than"):
        next(train_shards(small_config(), Noise(2), GRID, 0, 1))
