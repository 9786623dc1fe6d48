"""Projection heads: independent MLPs with prototypes, shared by all branches and all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.elastic.layers import ElasticLinear, sliced_parameters


class PrototypeLayer(nn.Module):
    """A weight-normalised linear layer without bias: g * v / |v| for each prototype.

    The parameters carry `torch.nn.utils.weight_norm`'s names, `weight_g` (K, 1) and `weight_v`
    (K, D), because published checkpoints do. g is trained (published code; DINOv2 freezes nothing
    either).
    """

    def __init__(self, in_features: int, n_prototypes: int) -> None:
        super().__init__()
        linear = nn.Linear(in_features, n_prototypes, bias=False)
        self.weight_g = nn.Parameter(torch.ones(n_prototypes, 1))
        self.weight_v = nn.Parameter(linear.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) to (N, K) logits."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class ProjectionHead(nn.Module):
    """An MLP whose first layer takes features of any width, L2 normalisation, and prototypes.

    DINOv2 `layers/dino_head.py`, with POA's elastic first layer.

    Args:
        in_features: the widest features.
        n_prototypes: outputs.
        hidden_dim, bottleneck_dim, nlayers: the MLP.
    """

    def __init__(
        self,
        in_features: int,
        n_prototypes: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        nlayers: int = 3,
    ) -> None:
        super().__init__()
        sizes = [hidden_dim] * (nlayers - 1) + [bottleneck_dim]
        layers: list[nn.Module] = [ElasticLinear(in_features, sizes[0], fixed_output=True)]
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.GELU(), nn.Linear(fan_in, fan_out)]
        self.mlp = nn.Sequential(*layers)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = PrototypeLayer(bottleneck_dim, n_prototypes)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Map (N, d) features, d at most the widest, to (N, K) logits.

        A list of features of several widths is taken as one batch from the first layer's output on.
        """
        first, *rest = self.mlp
        several = [features] if isinstance(features, Tensor) else features
        bottleneck = torch.cat([first(x) for x in several])
        for layer in rest:
            bottleneck = layer(bottleneck)
        eps = 1e-6 if bottleneck.dtype == torch.float16 else 1e-12
        return self.last_layer(F.normalize(bottleneck, dim=-1, eps=eps))


class MultiHead(nn.ModuleList):
    """Several projection heads with different numbers of prototypes (POA section 3.3).

    A call takes all features of a step, so that sharded parameters are gathered once.

    Args:
        in_features: the widest features.
        n_prototypes: of each head.
        hidden_dim, bottleneck_dim, nlayers: of every head's MLP.
    """

    def __init__(
        self,
        in_features: int,
        n_prototypes: Sequence[int],
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        nlayers: int = 3,
    ) -> None:
        super().__init__(
            ProjectionHead(in_features, size, hidden_dim, bottleneck_dim, nlayers)
            for size in n_prototypes
        )

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return, for each (N, d) of `features`, the (N, K_h) logits of every head h."""
        sizes = [len(x) for x in features]
        return [list(x) for x in zip(*(head(features).split(sizes) for head in self), strict=True)]

    @torch.no_grad()
    def sliced_state_dict(self, share: Fraction) -> dict[str, Tensor]:
        """Return the state dict of heads for features of a share of the width."""
        return {
            f"{name}.{key}": tensor.detach().clone()
            for name, module in self.named_modules()
            for key, tensor in sliced_parameters(module, share).items()
        }
