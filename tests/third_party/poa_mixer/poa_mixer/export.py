"""An export format: a program of torch.export for batches of any size, which runs without any of our code."""

from __future__ import annotations

import torch

from poa_plugin.export import Written
from poa_plugin.export.compare import closeness, difference, noise
from poa_plugin.registry import EXPORTERS

USAGE = """import torch

program = torch.export.load("FOLDER/model.pt2").module()
features = program(images)["x_norm_clstoken"]"""


@EXPORTERS.register_as("pt2")
@torch.no_grad()
def export_program(task):
    """Write `model.pt2`, load it, and compare its features with the network's."""
    network, side = task.network.network, task.image_size or task.network.image_size
    file = task.target / "model.pt2"
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        network, (noise(2, side, side),), dynamic_shapes={"images": {0: batch}}
    )
    torch.export.save(program, file)
    images = noise(3, side, side)
    found = torch.export.load(file).module()(images)["x_norm_clstoken"]
    apart = difference(found, network(images)["x_norm_clstoken"], "The features of model.pt2")
    checked = f"The features of three images agree {closeness(apart)}."
    return Written("pytorch", USAGE, checked, lines=[checked])
