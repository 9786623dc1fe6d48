"""Projection heads: independent MLPs with prototypes, shared by all branches and all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from poa_plugin.config.schema import Config
from poa_plugin.elastic.layers import ElasticLinear, sliced_parameters

LOGITS_TO_KEEP = 1 << 23
"""Up to so many logits of a head are kept for the backward pass (32 MiB); more are worked out again."""


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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) to (N, K) logits."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


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
        first, *rest = self.mlp
        x = torch.cat([first(own) for own in features])
        for layer in rest:
            x = layer(x)
        eps = 1e-6 if x.dtype == torch.float16 else 1e-12
        whole = torch.promote_types(
            x.dtype, torch.float32
        )  # the square of a length has none in float16
        return F.normalize(x.to(whole), dim=-1, eps=eps)


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
        consume: Callable[[int, Sequence[Tensor]], dict[str, Tensor]] | None = None,
    ) -> list[Any]:
        """Return, for each (N, d) of `features`, the (N, K_h) logits of every head h.

        Args:
            features: of any widths.
            consume: makes scalars, such as losses, of a head's number and its logits of all features;
                then the result is what it returned, head by head. Large logits are not kept: the
                backward pass works them out again, so that no two heads' are in memory at once.
        """
        sizes = [len(x) for x in features]
        heads = [cast(ProjectionHead, head) for head in self]
        if consume is None:
            logits = [head.last_layer(head.bottleneck(features)).split(sizes) for head in heads]
            return [list(own) for own in zip(*logits, strict=True)]

        def finish(number: int, bottleneck: Tensor) -> dict[str, Tensor]:
            return consume(number, heads[number].last_layer(bottleneck).split(sizes))

        found = []
        for number, head in enumerate(heads):
            bottleneck = head.bottleneck(features)
            if len(bottleneck) * len(head.last_layer.weight_g) <= LOGITS_TO_KEEP:
                found.append(finish(number, bottleneck))
            else:
                again = {"use_reentrant": False, "preserve_rng_state": False}
                found.append(cast(Any, checkpoint)(finish, number, bottleneck, **again))
        return found

    @torch.no_grad()
    def sliced_state_dict(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """Return the state dict of heads for features of a width ratio."""
        return {
            f"{name}.{key}": tensor.detach().clone()
            for name, module in self.named_modules()
            for key, tensor in sliced_parameters(module, width_ratio).items()
        }


def head_options(config: Config) -> dict[str, Any]:
    """Return `MultiHead`'s arguments, but for its features, as plain values."""
    dino = config.dino
    return {
        "n_prototypes": list(dino.head_n_prototypes),
        "hidden_dim": dino.head_hidden_dim,
        "bottleneck_dim": dino.head_bottleneck_dim,
        "nlayers": dino.head_nlayers,
    }
