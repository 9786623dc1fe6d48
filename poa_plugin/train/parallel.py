"""What is done to a model from outside: compilation, and later distribution."""

from __future__ import annotations

from typing import cast

import torch

from poa_plugin.backbones import ElasticBackbone
from poa_plugin.ssl import POA


def compile_blocks(model: POA) -> None:
    """Compile what every block of the backbones does to one sub-network's tokens.

    Widths and numbers of tokens are dynamic: all sub-networks share a few compiled forms. The first
    steps take a minute longer.
    """
    for branch in (model.student, model.teacher):
        backbone = cast(ElasticBackbone, branch["backbone"])
        for block in backbone.multi_input_blocks():
            block.run = torch.compile(block.run, dynamic=True)  # type: ignore[method-assign]
