"""Projection heads: independent MLPs with prototypes, shared by all branches and all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.config.schema import Config
from poa_plugin.elastic.layers import ElasticLinear, sliced_parameters


class PrototypeLayer(nn.Module):
    """A weight-normalized linear layer without bias: g * v / |v| for each prototype.

    The parameters carry `torch.nn.utils.weight_norm`'s names, `weight_g` (K, 1) and `weight_v`
    (K, D), because published checkpoints do. g is trained (published code; DINOv2 freezes nothing
    either).
    """

    def __init__(self, in_features: int, n_prototypes: int) -> None:
        super().__init__()
        linear = nn.Linear(in_features, n_prototypes, bias=False)
        self.weight_g = nn.Parameter(torch.ones(n_prototypes, 1))
        self.weight_v = nn.Parameter(linear.weight.detach().clone())

    def prototypes(self) -> Tensor:
        """Return the weight of the linear layer, (K, D)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) to (N, K) logits."""
        return F.linear(x, self.prototypes())


class ProjectionHead(nn.Module):
    """An MLP whose first layer takes features of any width, L2 normalization, and prototypes.

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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, d) features, d at most the widest, to (N, K) logits."""
        return self.last_layer(self.bottleneck([x]))

    def bottleneck(self, features: Sequence[Tensor]) -> Tensor:
        """Map (N, d) features of several widths to one batch of (sum of N, bottleneck_dim)."""
        first_layer, *layers = self.mlp
        x = torch.cat([first_layer(batch) for batch in features])
        for layer in layers:
            x = layer(x)
        eps = 1e-6 if x.dtype == torch.float16 else 1e-12
        wide = torch.promote_types(x.dtype, torch.float32)  # a squared length overflows float16
        return F.normalize(x.to(wide), dim=-1, eps=eps)


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

    def forward(
        self,
        features: Sequence[Tensor],
        head_fn: Callable[[int, Sequence[Tensor], Tensor], Any] | None = None,
    ) -> list[Any]:
        """Return, for each (N, d) of `features`, the (N, K_h) logits of every head h.

        Args:
            features: of any widths.
            head_fn: maps a head's number, its bottleneck features (N, D) of each of `features`, and its
                prototypes (K_h, D), to anything. The result is then what it returned, head by head, and no
                logits are computed here.
        """
        sizes, outputs = [len(x) for x in features], []
        for number, module in enumerate(self):
            head = cast(ProjectionHead, module)
            rows = head.bottleneck(features).split(sizes)
            outputs.append((head_fn or _logits)(number, rows, head.last_layer.prototypes()))
        return outputs if head_fn else [list(by_head) for by_head in zip(*outputs, strict=True)]

    @torch.no_grad()
    def sliced_state_dict(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """Return the state dict of heads for features of a width ratio."""
        return {
            f"{name}.{key}": tensor.detach().clone()
            for name, module in self.named_modules()
            for key, tensor in sliced_parameters(module, width_ratio).items()
        }


def _logits(_: int, rows: Sequence[Tensor], prototypes: Tensor) -> list[Tensor]:
    return [F.linear(x, prototypes) for x in rows]


def head_options(config: Config) -> dict[str, Any]:
    """Return `MultiHead`'s arguments, but for its features, as plain values."""
    dino = config.dino
    return {
        "n_prototypes": list(dino.head_n_prototypes),
        "hidden_dim": dino.head_hidden_dim,
        "bottleneck_dim": dino.head_bottleneck_dim,
        "nlayers": dino.head_nlayers,
    }
