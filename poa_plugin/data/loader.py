"""Batches as functions of (seed, step, shard), the same whatever the number of worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from poa_plugin import ranks
from poa_plugin.config.schema import Config
from poa_plugin.crops import masked_patches
from poa_plugin.data.augment import MultiCropAugmentation
from poa_plugin.data.datasets import Dataset, UnreadableImageError
from poa_plugin.data.decode import BadImageError
from poa_plugin.data.faults import BadImageNote, BadImages
from poa_plugin.data.masking import shard_masks
from poa_plugin.data.names import printable
from poa_plugin.data.reading import reason_of
from poa_plugin.data.workers import Workers, in_order
from poa_plugin.device import resolve_device
from poa_plugin.errors import UserError
from poa_plugin.randomness import numpy_generator

SUBSTITUTES = 100


class ShardBatch(TypedDict):
    """One shard's images, under the names of DINOv2's collate function.

    `collated_global_crops` (2 B, 3, g, g) and `collated_local_crops` (V * B, 3, l, l), uint8 and view-major;
    `collated_masks` (2 B, N) bool, and of its M masked patches `mask_indices_list`, their places in the
    flattened masks, and `masks_weight`, one over their number in the image; `image_ids`, the B indices into the
    data set; `bad_images`, those that were replaced by others.
    """

    collated_global_crops: Tensor
    collated_local_crops: Tensor
    collated_masks: Tensor
    mask_indices_list: Tensor
    masks_weight: Tensor
    image_ids: list[int]
    bad_images: list[BadImageNote]


class Batches(TorchDataset["ShardBatch | UserError"]):
    """The batches of a run that this process takes, numbered through steps and its shards."""

    def __init__(self, config: Config, dataset: Dataset, mask_grid: tuple[int, int]) -> None:
        self.dataset, self.mask_grid = dataset, mask_grid
        self.seed, self.shards = config.train.seed, config.train.shards
        self.mine = ranks.my_shards(self.shards)
        self.batch_size = config.train.batch_size_per_shard
        self.augmentation = MultiCropAugmentation(config.crops)
        self.mask_probability = config.ibot.mask_sample_probability
        low, high = config.ibot.mask_ratio_min_max
        self.mask_ratio = (low, high)
        self._order: tuple[int, np.ndarray[Any, Any]] = (-1, np.zeros(0))

    def __getitem__(self, number: int) -> ShardBatch | UserError:
        """Return a batch of this process, or why there is none.

        An error is returned for `train_shards` to raise: one that is raised in a worker process
        reaches the user with the worker's traceback for its message. Its class is `UserError`: a subclass with
        further arguments cannot be pickled.
        """
        try:
            step, position = divmod(number, len(self.mine))
            return self.batch(step, self.mine[position])
        except UserError as error:
            return UserError(str(error))

    def batch(self, step: int, shard: int) -> ShardBatch:
        """Return the batch of one step and shard."""
        ids, views = [], []
        bad: list[BadImageNote] = []
        for position, index in enumerate(self.image_ids(step, shard)):
            used, image = self._usable(index, (step, shard, position), bad)
            generator = numpy_generator("crops", self.seed, step, shard, position)
            views.append(self.augmentation(image, generator))
            ids.append(used)
        masks = shard_masks(
            2 * len(ids),
            self.mask_grid,
            self.mask_probability,
            self.mask_ratio,
            numpy_generator("masks", self.seed, step, shard),
        )
        indices, weights = masked_patches(masks)
        return {
            "collated_global_crops": _view_major([global_ for global_, _ in views]),
            "collated_local_crops": _view_major([local for _, local in views]),
            "collated_masks": masks,
            "mask_indices_list": indices,
            "masks_weight": weights,
            "image_ids": ids,
            "bad_images": bad,
        }

    def _usable(
        self, index: int, place: tuple[int, int, int], bad: list[BadImageNote]
    ) -> tuple[int, Tensor]:
        """Return an image, or where it cannot be used one that (seed, step, shard, position) decide."""
        substitutes = None
        for _ in range(SUBSTITUTES):
            try:
                return index, self.dataset.image(index)
            except BadImageError as error:
                bad.append(BadImageNote(error.name, error.kind, error.reason))
            except OSError as error:  # of a user's data set: nothing was being written here
                raise UnreadableImageError(
                    self.dataset.name(index), f": {reason_of(error)}"
                ) from error
            substitutes = substitutes or numpy_generator("substitute", self.seed, *place)
            index = int(substitutes.integers(len(self.dataset)))
        raise UserError(
            f"{SUBSTITUTES} images drawn in a row cannot be used, the last of them "
            f"'{printable(bad[-1].name)}' ({bad[-1].kind}): 'poa data check' reads the full data set."
        )

    def image_ids(self, step: int, shard: int) -> list[int]:
        """Return the images of one step and shard.

        The shards of a step take consecutive slices of an endless sequence of shuffles of the data set, so that
        every image is seen once in each epoch of the data, whatever the number of shards.
        """
        first = (step * self.shards + shard) * self.batch_size
        return [self._image_id(first + position) for position in range(self.batch_size)]

    def _image_id(self, number: int) -> int:
        epoch, position = divmod(number, len(self.dataset))
        if self._order[0] != epoch:
            order = numpy_generator("order", self.seed, epoch).permutation(len(self.dataset))
            self._order = (epoch, order.astype(np.min_scalar_type(len(order))))
        return int(self._order[1][position])


def train_shards(
    config: Config,
    dataset: Dataset,
    mask_grid: tuple[int, int],
    start_step: int,
    end_step: int,
    bad_images: BadImages | None = None,
) -> Iterator[ShardBatch]:
    """Yield the batches of this process's shards of the steps from `start_step` up to `end_step`, in order.

    Workers prefetch a few shards, whatever the number of shards of a step. A worker process that dies, perhaps
    out of memory, loses nothing: batches are functions of step and shard, and new workers continue with the
    next one.

    Args:
        config: a resolved configuration.
        dataset: the images.
        mask_grid: rows and columns of patches in a global crop.
        start_step: the first step; any step can be the first, nothing is replayed.
        end_step: one past the last step.
        bad_images: records images that cannot be used; None counts them only.

    Raises:
        UserError: the data set has fewer images than one shard's batch, too many of them cannot be
            used, or workers die again and again.
    """
    batches = Batches(config, dataset, mask_grid)
    if len(dataset) < batches.batch_size:
        raise UserError(
            f"The data set has {len(dataset)} images, fewer than train.batch_size_per_shard="
            f"{batches.batch_size}: lower it, or check data.path."
        )
    bad_images = bad_images or BadImages(None, len(dataset), config.data.max_bad_ratio)
    n_shards = len(batches.mine)
    numbers = range(start_step * n_shards, end_step * n_shards)
    number = config.data.num_workers
    workers = Workers(
        number,
        f"lower data.num_workers (now {number}), or allow the job more. The last checkpoint is intact",
        pin_memory=resolve_device(config.train.device).type == "cuda",
    )
    for batch in in_order(batches, numbers, workers):
        bad_images.note(batch["bad_images"])
        yield batch


def _view_major(views: list[list[Tensor]]) -> Tensor:
    """Stack the views of B images as (views * B, 3, s, s), the first view of all images first."""
    return (
        torch.stack([image for view in zip(*views, strict=True) for image in view])
        if (views[0])
        else torch.zeros(0)
    )
