"""What a configuration builds: the elastic backbone, and the arguments of the heads."""

from __future__ import annotations

from typing import Any, cast

import torch

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.building import backbone_errors
from poa_plugin.config.load import backbone_options
from poa_plugin.config.schema import Config
from poa_plugin.registry import BACKBONES


def build_backbone(config: Config) -> ElasticBackbone:
    """Build the elastic backbone that a configuration names, with weights drawn from its seed.

    It is in evaluation mode, as are `extract`'s and `load`'s networks: a sub-network gives the features of the
    network that is extracted. In training mode (`backbone.train()`) stochastic depth applies.

    Raises:
        UserError: the name is unknown, or the options contradict one another.
    """
    options = backbone_options(config)
    backbone = BACKBONES.get(config.student.arch)
    with backbone_errors(config.student.arch), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        built = cast(
            ElasticBackbone, backbone.from_options(options, config.crops.global_crops_size)
        )
    return built.eval()


def head_options(config: Config) -> dict[str, Any]:
    """Return `MultiHead`'s arguments, but for its features, as plain values."""
    dino = config.dino
    return {
        "n_prototypes": list(dino.head_n_prototypes),
        "hidden_dim": dino.head_hidden_dim,
        "bottleneck_dim": dino.head_bottleneck_dim,
        "nlayers": dino.head_nlayers,
    }
