"""The teacher's part of a step: the targets of the students' predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import CropBatch
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.ssl.assignments import TeacherOutputs
from poa_plugin.ssl.centering import Centering, sinkhorn_knopp
from poa_plugin.ssl.objective import Shard, Targets
from poa_plugin.ssl.prototypes import chunks, compute_dtype


class Teacher:
    """Runs the teacher shard by shard, and stores the bottleneck features that targets are made of.

    Args:
        modules: `backbone` and `dino_head`.
        intact: the sub-network that the teacher runs.
        centering: of class tokens and of masked patches; Sinkhorn-Knopp where there is none.
        chunk_width: prototypes at a time.
        most_rows: the largest number of tokens of a shard that the configuration allows.
    """

    def __init__(
        self,
        modules: nn.ModuleDict,
        intact: Subnet,
        centering: Sequence[Centering],
        chunk_width: int,
        most_rows: int,
    ) -> None:
        self.modules, self.intact = modules, intact
        self.centering = centering
        self.chunk_width, self.most_rows = chunk_width, most_rows

    @torch.no_grad()
    def targets(self, shards: Iterable[Shard], temperature: float) -> Targets:
        """Return the assignments of all shards' tokens; Sinkhorn-Knopp sees those of all ranks together.

        Args:
            shards: of the step and of this process, one at a time; only their global crops are read.
            temperature: of the teacher.
        """
        by_shard, prototypes, masked = [], list[Tensor](), False
        for shard in shards:
            features, weights = self._features(shard, not prototypes)
            by_shard.append(features)
            prototypes = prototypes or weights
            masked = masked or shard.masks is not None
        kinds = [
            [
                TeacherOutputs(
                    [features[head][kind] for features in by_shard],
                    weight,
                    temperature,
                    chunks(len(weight), self.chunk_width),
                    self.most_rows,
                )
                for head, weight in enumerate(prototypes)
            ]
            for kind in range(2 if masked else 1)
        ]
        if self.centering:
            of_kinds = [center(kind) for center, kind in zip(self.centering, kinds, strict=False)]
        else:
            balanced = sinkhorn_knopp([output for kind in kinds for output in kind])
            n_heads = len(prototypes)
            of_kinds = [balanced[:n_heads], balanced[n_heads:]]
        return Targets(of_kinds[0], of_kinds[1] if masked else [])

    def _features(
        self, shard: Shard, with_prototypes: bool
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Return each head's features of class tokens and masked patches, and its prototypes."""
        prototypes: list[Tensor] = []

        def bottleneck_features(head: int, rows: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
            dtype = compute_dtype(weight)
            if with_prototypes:
                prototypes.append(weight.to(dtype))
            return [x.to(dtype) for x in rows]

        [out] = self.modules["backbone"](
            [CropBatch(shard.global_crops, self.intact, patch_ids=shard.patch_ids)]
        )
        tokens = [out["x_norm_clstoken"], out["x_norm_patchtokens"]]
        return self.modules["dino_head"](tokens, bottleneck_features), prototypes
