"""What accuracies and latencies depend on, and by which name results under the same conditions are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from poa_plugin.config.load import backbone_options
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset
from poa_plugin.evaluate.latency import device_name
from poa_plugin.extract import Run
from poa_plugin.train.checkpoint import weights_checksum

CROPS = "pillow"
"""How images become crops: results of other crops are not comparable."""

SAMPLED = 128
"""Images of a split whose pixels tell data sets with equal names apart; all of them in a smaller split."""


def accuracy_conditions(run: Run, branch: str, images: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the accuracies of a run's networks, as JSON values.

    The run's folder, the device, the number of threads and the version of torch are not among them, and
    neither is k: accuracies of one k stay what they are when others are asked for.

    Args:
        run: an opened run.
        branch: `teacher` or `student`.
        images: see `image_conditions`.
    """
    return {
        **_architecture(run.config),
        "step": run.step,
        "branch": branch,
        "weights": weights_checksum(run.checkpoint),
        **images,
    }


def baseline_conditions(config: Config, images: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the accuracies of a run's networks before training, as JSON values."""
    return {**_architecture(config), "seed": config.train.seed, **images}


def image_conditions(
    config: Config, splits: Sequence[Dataset], temperature: float
) -> dict[str, Any]:
    """Return what decides the accuracies of any network, whatever its weights, as JSON values."""
    return {
        "images": [images_checksum(split) for split in splits],
        "crops": CROPS,
        "resize_size": config.evaluation.resize_size,
        "crop_size": config.evaluation.crop_size,
        "decoded_size": config.data.image_size,
        "temperature": temperature,
    }


def data_words(config: Config, temperature: float) -> str:
    """Return in words on which images, and how, networks are evaluated; no path but its last name."""
    data, evaluation = config.data, config.evaluation
    name = " ".join(filter(None, (data.dataset, data.path and Path(data.path).name)))
    return (
        f"{name}, {evaluation.crop_size} of {evaluation.resize_size} pixels, "
        f"temperature {temperature:g}"
    )


def latency_conditions(config: Config, device: torch.device) -> dict[str, Any]:
    """Return what decides the latencies of a run's networks, as JSON values."""
    return {
        **_architecture(config),
        "crop_size": config.evaluation.crop_size,
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


def conditions_name(conditions: Mapping[str, Any]) -> str:
    """Return a name for conditions, the same for equal ones: 16 hexadecimal digits."""
    text = json.dumps(conditions, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _architecture(config: Config) -> dict[str, Any]:
    options = OmegaConf.to_container(cast(DictConfig, backbone_options(config)), resolve=True)
    return {
        "family": config.student.arch,
        "options": options,
        "image_size": config.crops.global_crops_size,
    }
