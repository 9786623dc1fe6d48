"""The MLP of transformer blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.elastic.layers import PlainLayers


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, bias: bool, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.fc1 = layers.linear(width, hidden, bias)
        self.fc2 = layers.linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))
