"""The format `hf`: a folder that transformers loads offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poa_plugin.errors import UserError
from poa_plugin.export.card import Written
from poa_plugin.export.compare import closeness, difference, noise
from poa_plugin.export.exporter import Task
from poa_plugin.extraction.extracted import Extracted, optional
from poa_plugin.extraction.network import CONFIG, WEIGHTS
from poa_plugin.formats.description import IMAGENET_STATISTICS
from poa_plugin.registry import EXPORTERS
from poa_plugin.weights import load_tensors, save_tensors

PREPROCESSOR = "preprocessor_config.json"
BICUBIC = 3
"""Pillow's number, which transformers' configurations use."""
USAGE = """from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
network = AutoModel.from_pretrained("FOLDER")  # {architecture}
features = network(**processor(images, return_tensors="pt")).pooler_output  # (B, {features})"""


@EXPORTERS.register_as("hf")
def export_hugging_face(task: Task) -> Written:
    """Write a folder for transformers, load it back with `AutoModel`, and compare features.

    A class of transformers' own is used where one fits, and its wrapper of timm's networks otherwise.

    Raises:
        UserError: neither has such a network, or transformers is not installed.
    """
    task.refuse_image_size("hf")
    network = task.network
    description = network.hugging_face
    if description is None:
        _check_timm_alone(network)
    transformers = optional("transformers", "export", "The format 'hf'")
    if description is not None:
        state = load_tensors(network.folder / WEIGHTS)
        save_tensors(description.rename(state), task.target / WEIGHTS, metadata={"format": "pt"})
        config = {"model_type": description.model_type, **description.config}
        limits = description.limits
    else:
        optional("timm", "export", "The format 'hf'")
        shutil.copyfile(network.folder / WEIGHTS, task.target / WEIGHTS)
        config = _wrapper_config(network.timm.config)
        limits = network.timm.limits
    kind = type(transformers.AutoConfig.for_model(config["model_type"]))
    named = {"architectures": [transformers.MODEL_MAPPING[kind].__name__]}
    _write_json(task.target / CONFIG, {**named, **config, "poa": _facts(network)})
    _write_json(task.target / PREPROCESSOR, _preprocessor(network))
    with _no_progress_bars(transformers):
        model = _load(transformers, task.target)
    images = noise(2, network.image_size, network.image_size)
    title = f"{type(model).__name__} of transformers {transformers.__version__}"
    with torch.no_grad():
        wanted = network.network(images)["x_norm_clstoken"]
        exported = model(pixel_values=images).pooler_output
    apart = difference(exported, wanted, f"The features of {title}", limits)
    line = (
        f"{title} gives the network's features at {network.image_size} pixels, {closeness(apart)}."
    )
    usage = USAGE.format(architecture=type(model).__name__, features=network.facts["features"])
    return Written("transformers", usage, checked=line, limits=[limits], lines=[line])


def _check_timm_alone(network: Extracted) -> None:
    """Raise a `UserError` if timm's networks cannot stand in for a class of transformers' own."""
    what = (
        f"'{network.folder}' cannot be exported to transformers: it has no class for such networks"
    )
    if network.timm.refusal:
        raise UserError(f"{what}, and its timm wrapper none either: {network.timm.refusal}")
    if network.timm.needs_adjusting:
        raise UserError(
            f"{what}, and its timm wrapper would build another one, as timm has no argument for all of "
            f"it: export it to timm or onnx."
        )


def _wrapper_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of transformers' timm wrapper.

    timm's `pretrained_cfg` is left out: with it, transformers takes the file for timm's own.
    """
    return {
        "model_type": "timm_wrapper",
        "architecture": config["architecture"],
        "num_classes": 0,
        "model_args": {"global_pool": config["global_pool"], **config["model_args"]},
    }


def _load(transformers: Any, folder: Path) -> nn.Module:
    """Load a folder as a user will, without the network, and make sure that every weight is used."""
    model, report = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    unused = sorted(
        str(key)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in report[kind]
    )
    if unused:
        raise UserError(
            f"transformers {transformers.__version__} names the weights of {type(model).__name__} in "
            f"another way, such as '{unused[0]}'; nothing was written."
        )
    loaded: nn.Module = model.eval()
    return loaded


def _preprocessor(network: Extracted) -> dict[str, Any]:
    """Return what `AutoImageProcessor` reads: shorter side resized, center crop, ImageNet statistics."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": network.resize_size},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": network.image_size, "width": network.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_STATISTICS["mean"],
        "image_std": IMAGENET_STATISTICS["std"],
    }


def _facts(network: Extracted) -> dict[str, Any]:
    return {key: value for key, value in network.facts.items() if key not in ("options", "heads")}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _no_progress_bars(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
