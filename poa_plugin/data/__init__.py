"""Data: images by index, multi-crop augmentation, block masks, and batches by step and shard."""

from poa_plugin.data.augment import MultiCropAugmentation
from poa_plugin.data.colour import normalise
from poa_plugin.data.datasets import Dataset, Elpv, ImageFolder, build_dataset
from poa_plugin.data.loader import ShardBatch, train_batches
from poa_plugin.data.masking import block_mask, shard_masks

__all__ = [
    "Dataset",
    "Elpv",
    "ImageFolder",
    "MultiCropAugmentation",
    "ShardBatch",
    "block_mask",
    "build_dataset",
    "normalise",
    "shard_masks",
    "train_batches",
]
