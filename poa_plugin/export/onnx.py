"""The format `onnx`: one graph for images of all sizes, or of the one that is asked for."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poa_plugin.errors import UserError
from poa_plugin.export.card import Written
from poa_plugin.export.compare import difference, noise
from poa_plugin.export.exporter import Task
from poa_plugin.extraction.extracted import Extracted, optional
from poa_plugin.registry import EXPORTERS
from poa_plugin.version import __version__

FILE, OPSET = "model.onnx", 20
OUTPUTS = {"features": "x_norm_clstoken", "patch_tokens": "x_norm_patchtokens"}
"""The graph's outputs, (B, D) and (B, N, D), and the network's names of them."""
BATCHES = (1, 3)
USAGE = """import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
features, patch_tokens = session.run(None, {{"images": images}})  # (B, {features}), (B, N, {features})"""


class Named(nn.Module):
    """A network whose outputs are a tuple, in the order of `OUTPUTS`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C, H, W) images to the outputs."""
        outputs = self.network(images)
        return tuple(outputs[name] for name in OUTPUTS.values())


@EXPORTERS.register_as("onnx")
def export_onnx(task: Task) -> Written:
    """Write `model.onnx`, and compare it with the network under onnxruntime.

    The number of images is free. Height and width are free, too, unless an image size was asked for.

    Raises:
        UserError: the network cannot be traced for all sizes at once, the outputs differ, or onnx or
            onnxruntime is not installed.
    """
    for module in ("onnx", "onnxruntime"):
        optional(module, "export", "The format 'onnx'")
    network, side = task.network, task.image_size or task.network.image_size
    named = Named(network.network).eval()
    sizes = [(side, side)] if task.image_size else [(side, side), (side, 2 * side)]
    with torch.no_grad():
        wanted = {(b, *size): named(noise(b, *size)) for b in BATCHES for size in sizes}
    file = task.target / FILE
    try:
        _write(file, named, network, task.image_size)
        line = _compare(file, wanted)
    except Exception as error:  # the errors of tracer and runtime are of many kinds
        if task.image_size is not None or isinstance(error, OSError):
            raise
        reason = f"{error}".strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"'{network.folder}' has no graph that is the same for images of all sizes ({reason}): choose "
            f"one, such as --image-size {side}."
        ) from error
    limits = [_sizes(task.image_size), "Weights and arithmetic are float32."]
    usage = USAGE.format(features=network.facts["features"])
    return Written("onnx", usage, checked=line, limits=limits, lines=[line])


def _write(file: Path, named: Named, network: Extracted, side: int | None) -> None:
    """Trace the network and write it; height and width are free where `side` is None.

    TorchScript's tracer is used, which records sizes as values: with `torch.export`, whose sizes are
    symbols, windows that are partitioned, rolled and reversed led to conditions that it had not solved
    after ten minutes.
    """
    import onnx

    native = network.image_size
    images = noise(2, *((side, side) if side else (2 * native, native)))
    free = {0: "batch"} if side else {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # checks of sizes are not traced
        for text in ("You are using the legacy TorchScript", "The feature will be removed"):
            warnings.filterwarnings("ignore", text, DeprecationWarning)
        torch.onnx.export(
            named,
            (images,),
            file,
            dynamo=False,
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_axes={
                "images": free,
                "features": {0: "batch"},
                "patch_tokens": {0: "batch", 1: "tokens"},
            },
            opset_version=OPSET,
        )
    model = onnx.load(file)
    _describe(model, network)
    onnx.save(model, file)


def _describe(model: Any, network: Extracted) -> None:
    """Write down whose network it is, and drop the tracer's notes, which may tell the paths of a machine."""
    for node in model.graph.node:
        node.doc_string = ""
    facts = network.facts
    model.producer_name, model.producer_version = "poa_plugin", __version__
    model.doc_string = f"{network.name}, a {facts['backbone']} pre-trained with POA"
    notes = {"exported_with": f"torch {torch.__version__}"}
    for key, value in facts.items():
        if key != "heads":
            notes[f"poa.{key}"] = value if isinstance(value, str) else json.dumps(value)
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)


def _compare(file: Path, wanted: dict[tuple[int, int, int], tuple[Tensor, ...]]) -> str:
    """Run the file under onnxruntime; return a sentence about the largest differences."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    apart = dict.fromkeys(OUTPUTS, 0.0)
    for size, outputs in wanted.items():
        exported = session.run(None, {"images": noise(*size).numpy()})
        for name, expected, array in zip(OUTPUTS, outputs, exported, strict=True):
            what = f"For {size[0]} images of {size[1]} x {size[2]} pixels, onnxruntime's {name}"
            apart[name] = max(apart[name], difference(torch.from_numpy(array), expected, what))
    batches = " and ".join(str(b) for b in sorted({size[0] for size in wanted}))
    sizes = " and ".join(f"{h} x {w}" for h, w in dict.fromkeys(size[1:] for size in wanted))
    errors = ", ".join(f"{name} {error:.1g}" for name, error in apart.items())
    return (
        f"onnxruntime {onnxruntime.__version__} gives the network's outputs for {batches} images of "
        f"{sizes} pixels, within: {errors}."
    )


def _sizes(side: int | None) -> str:
    if side:
        return f"The graph is for images of {side} x {side} pixels, any number of them."
    return (
        "The graph takes any number of images of any size that the network takes, and does not check it: "
        "a size that the network refuses gives features of a part of the image."
    )
