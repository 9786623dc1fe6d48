"""The format `timm`: a folder that stock timm loads."""

from __future__ import annotations

import json
import shutil

import torch

from poa_plugin.errors import UserError
from poa_plugin.export.card import Written
from poa_plugin.export.compare import closeness, difference, noise
from poa_plugin.export.exporter import Task
from poa_plugin.export.to_timm import to_timm
from poa_plugin.extraction.extracted import optional
from poa_plugin.extraction.network import CONFIG, WEIGHTS
from poa_plugin.registry import EXPORTERS

LOCAL_DIR = """import timm

network = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
features = network(images)  # (B, {features})"""
TO_TIMM = """import poa_plugin

network = poa_plugin.to_timm("FOLDER")
features = network(images)  # (B, {features})"""
ADJUSTED = (
    "timm's `local-dir:` refuses this folder: timm has no argument for something that "
    "`poa_plugin.to_timm` sets once the network is built."
)


@EXPORTERS.register_as("timm")
def export_timm(task: Task) -> Written:
    """Write weights and configuration, have stock timm load them, and compare features.

    Raises:
        UserError: timm has no such network, or is not installed.
    """
    task.refuse_image_size("timm")
    network, description = task.network, task.network.timm
    if description.refusal:
        raise UserError(f"'{network.folder}' cannot be exported to timm: {description.refusal}")
    timm = optional("timm", "downstream", "The format 'timm'")
    shutil.copyfile(network.folder / WEIGHTS, task.target / WEIGHTS)
    config = json.loads((network.folder / CONFIG).read_text(encoding="utf-8"))
    config["poa"].pop("heads", None)
    config["pretrained_cfg"]["crop_pct"] = network.crop_share
    (task.target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if description.needs_adjusting:
        loaded, usage = to_timm(task.target), TO_TIMM
    else:
        loaded = timm.create_model(f"local-dir:{task.target}", pretrained=True).eval()
        usage = LOCAL_DIR
    images = noise(2, network.image_size, network.image_size)
    with torch.no_grad():
        wanted = network.network(images)["x_norm_clstoken"]
        what = f"The features of timm {timm.__version__}"
        apart = difference(loaded(images), wanted, what, description.limits)
    lines = [
        f"timm {timm.__version__} gives the network's features at {network.image_size} pixels, "
        f"{closeness(apart)}."
    ]
    if description.needs_adjusting:
        lines.append(
            "It is built by poa_plugin.to_timm: timm's local-dir: has no argument for all of it."
        )
    return Written(
        library="timm",
        usage=usage.format(features=network.facts["features"]),
        checked=lines[0],
        limits=[ADJUSTED] * description.needs_adjusting + [description.limits],
        lines=lines,
    )
