"""An extracted network in stock timm."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import nn

from poa_plugin.errors import UserError
from poa_plugin.extraction.extracted import open_extracted, optional
from poa_plugin.extraction.network import WEIGHTS
from poa_plugin.weights import load_tensors, load_weights


def to_timm(folder: str | Path) -> nn.Module:
    """Return an extracted network as stock timm builds it, in evaluation mode.

    Weights are loaded strictly, and what timm has no argument for is set afterwards. Called with
    (B, C, H, W) images the network returns (B, D) features.

    Args:
        folder: what `poa extract` wrote.

    Raises:
        UserError: the folder is no extracted network, timm has no such network, or it is not installed.
    """
    network = open_extracted(folder)
    description = network.timm
    if description.refusal:
        raise UserError(f"'{folder}' cannot be built in timm: {description.refusal}")
    timm = optional("timm", "downstream", "Building in timm")
    config = description.config
    model = timm.create_model(
        config["architecture"],
        pretrained_cfg={**config["pretrained_cfg"], "crop_pct": network.crop_share},
        num_classes=config["num_classes"],
        global_pool=config["global_pool"],
        **config["model_args"],
    )
    load_weights(model, load_tensors(network.folder / WEIGHTS), network.folder)
    description.adjust(model)
    return cast(nn.Module, model.eval())
