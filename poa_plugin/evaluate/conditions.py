"""What accuracies and latencies depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from poa_plugin.backbones.build import backbone_options
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset
from poa_plugin.evaluate.latency import device_name
from poa_plugin.runs.results import conditions_name

CROPS = "pillow"
"""How images become crops: results of other crops are not comparable."""

SAMPLED = 128
"""Images of a split whose pixels tell data sets with equal names apart; all of them in a smaller split."""


def image_conditions(config: Config, splits: Sequence[Dataset]) -> dict[str, Any]:
    """Return what decides the features of any network, whatever its weights, as JSON values."""
    return {
        "images": [images_checksum(split) for split in splits],
        "crops": CROPS,
        "resize_size": config.evaluation.resize_size,
        "crop_size": config.evaluation.crop_size,
        "decoded_size": config.data.image_size,
    }


def images_phrase(config: Config) -> str:
    """Return on which images networks are evaluated; no path but its last name."""
    data, evaluation = config.data, config.evaluation
    name = " ".join(filter(None, (data.dataset, data.path and Path(data.path).name)))
    return f"{name}, {evaluation.crop_size} of {evaluation.resize_size} pixels"


def architecture_name(config: Config) -> str:
    """Return a name for a run's elastic architecture, the same for equal ones."""
    options = OmegaConf.to_container(cast(DictConfig, backbone_options(config)), resolve=True)
    return conditions_name(
        {
            "family": config.student.arch,
            "options": options,
            "image_size": config.crops.global_crops_size,
        }
    )


def device_conditions(device: torch.device) -> dict[str, Any]:
    """Return on what latencies depend beside the network and the image's size, as JSON values."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def images_checksum(dataset: Dataset) -> str:
    """Return a checksum of a split: of its names and labels in their order, and pixels of some images.

    The folder is not part of it, so that a copy elsewhere counts as the same images.
    """
    digest = hashlib.sha256()
    n_images = len(dataset)
    labels = [] if dataset.labels is None else dataset.labels
    digest.update(json.dumps([n_images, list(dataset.classes)]).encode())
    digest.update(np.asarray(labels, np.int64).tobytes())
    for index in range(n_images):
        digest.update(f"{dataset.name(index)}\0".encode(errors="surrogateescape"))
    for index in np.unique(np.linspace(0, n_images - 1, min(n_images, SAMPLED)).round()):
        pixels = dataset.image(int(index))
        digest.update(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes())
    return digest.hexdigest()
