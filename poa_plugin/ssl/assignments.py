"""The teacher's assignments of tokens to prototypes, kept as features and two vectors of duals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from poa_plugin.ssl.prototypes import LOGITS_AT_ONCE, scaled_logits


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """One teacher head's outputs for the tokens of one kind, of all shards of a step.

    Only features and prototypes are stored; logits are computed when they are needed. A head that is computed
    in one chunk caches the logits of the last shard, or of all shards if they are few.

    Args:
        features: (N_s, D) for each shard, in the type in which logits are computed.
        prototypes: (K, D), in the same type.
        temperature: of the teacher.
        chunks: of the K prototypes.
        most_rows: the largest N_s that the configuration allows.
    """

    features: Sequence[Tensor]
    prototypes: Tensor
    temperature: float
    chunks: Sequence[slice]
    most_rows: int
    _cached: dict[int, Tensor] = field(default_factory=dict)

    def logits(self, shard: int, chunk: slice) -> Tensor:
        """Return a shard's logits over the temperature, (N_s, C) of a chunk of prototypes; read-only."""
        if shard in self._cached:
            return self._cached[shard]
        logits = scaled_logits(self.features[shard], self.prototypes[chunk], self.temperature)
        if len(self.chunks) == 1:
            if not self._caches_all:
                self._cached.clear()
            self._cached[shard] = logits
        return logits

    @property
    def _caches_all(self) -> bool:
        return len(self.features) * self.most_rows * len(self.prototypes) <= LOGITS_AT_ONCE


@dataclass(frozen=True, eq=False)
class Assignments:
    """The teacher's probabilities exp(logits / temperature + u + v) of one head and kind of token.

    Args:
        outputs: of the teacher.
        u: (K,), a number for each prototype.
        v: (N_s,) for each shard, a number for each token.
    """

    outputs: TeacherOutputs
    u: Tensor
    v: Sequence[Tensor]

    def of(self, shard: int, chunk: slice) -> Tensor:
        """Return a shard's probabilities of a chunk of prototypes, (N_s, C)."""
        logits = self.outputs.logits(shard, chunk)
        return (logits + self.u[chunk]).add_(self.v[shard][:, None]).exp_()

    def all_of(self, shard: int) -> Tensor:
        """Return a shard's probabilities of all prototypes, (N_s, K); each row sums to one."""
        return torch.cat([self.of(shard, chunk) for chunk in self.outputs.chunks], dim=1)
