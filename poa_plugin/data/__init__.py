"""Data: images by index, multi-crop augmentation, block masks, and batches by step and shard."""

from poa_plugin.crops import normalize
from poa_plugin.data.archives import WebDataset
from poa_plugin.data.augment import MultiCropAugmentation
from poa_plugin.data.datasets import (
    Dataset,
    EncodedImages,
    NoSplitError,
    build_dataset,
    image_names,
)
from poa_plugin.data.decode import BadImageError
from poa_plugin.data.elpv import Elpv
from poa_plugin.data.folders import FileList, ImageFolder, ImageNet
from poa_plugin.data.loader import ShardBatch, train_shards
from poa_plugin.data.masking import block_mask, shard_masks
from poa_plugin.data.names import Integers, Names
from poa_plugin.data.parquet import Parquet

__all__ = [
    "BadImageError",
    "Dataset",
    "Elpv",
    "EncodedImages",
    "FileList",
    "ImageFolder",
    "ImageNet",
    "Integers",
    "MultiCropAugmentation",
    "Names",
    "NoSplitError",
    "Parquet",
    "ShardBatch",
    "WebDataset",
    "block_mask",
    "build_dataset",
    "image_names",
    "normalize",
    "shard_masks",
    "train_shards",
]
