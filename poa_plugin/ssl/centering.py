"""Teacher targets: Sinkhorn-Knopp, and the centering alternative, over chunks of prototypes and shards.

Both are exp(logits / temperature + u + v) with one number a prototype and one a token (`Assignments`). A
sum over tokens is made shard by shard, and shards are joined in their order, so that targets have the same
bits however shards are distributed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poa_plugin.ssl.assignments import Assignments, TeacherOutputs


@torch.no_grad()
def sinkhorn_knopp(outputs: Sequence[TeacherOutputs], iterations: int = 3) -> list[Assignments]:
    """Return probabilities that use all prototypes equally (SwAV; POA eq. 5's SK).

    Works on logarithms, so that no logit overflows: exponentials of logit / temperature pass the range of
    float32 at a logit of 88 times the temperature. An iteration is one pass over all logits that normalizes
    prototypes, and one that normalizes tokens. The result is the target itself; the published code takes no
    further softmax of it.

    Args:
        outputs: heads and kinds of tokens, each balanced separately, over the tokens of all shards.
        iterations: normalizations of prototypes and then tokens.
    """
    present = [output for output in outputs if len(output)]
    sizes = [len(output.prototypes) for output in present]
    us: Sequence[Tensor] = []
    vs = [[_zeros(features) for features in output.features] for output in present]
    for _ in range(iterations if present else 0):
        sums = [_over_tokens(output, v) for output, v in zip(present, vs, strict=True)]
        us = torch.cat(sums, dim=1).logsumexp(dim=0).neg().split(sizes)
        vs = [_normalizing(output, u) for output, u in zip(present, us, strict=True)]
    balanced = iter(zip(us, vs, strict=True))
    return [
        Assignments(output, *(next(balanced) if len(output) else _no_tokens(output)))
        for output in outputs
    ]


class SinkhornKnopp(nn.Module):
    """Targets of every head by Sinkhorn-Knopp over all samples; has no state."""

    def forward(self, outputs: Sequence[TeacherOutputs]) -> list[Assignments]:
        """See `sinkhorn_knopp`."""
        return sinkhorn_knopp(outputs)


class Centering(nn.Module):
    """Targets softmax((logits - center) / T), the center a running mean (DINO).

    A batch's mean enters the center only after the batch has been used: the update is pending until the
    next call, as in DINOv2 `loss/dino_clstoken_loss.py`. The mean of the logits is the mean feature times
    the prototypes.

    Args:
        n_prototypes: of each head.
        momentum: of the running mean.
    """

    def __init__(self, n_prototypes: Sequence[int], momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        for head, size in enumerate(n_prototypes):
            self.register_buffer(f"center_{head}", torch.zeros(1, size))
            self.register_buffer(f"pending_{head}", torch.zeros(1, size))
            self.register_buffer(f"has_pending_{head}", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def forward(self, outputs: Sequence[TeacherOutputs]) -> list[Assignments]:
        """Return every head's targets, and store the means of this step's logits."""
        assignments = []
        for head, output in enumerate(outputs):
            self.apply_pending(head)
            u = self.get_buffer(f"center_{head}")[0] / -output.temperature
            assignments.append(Assignments(output, u, _normalizing(output, u)))
            if len(output):
                self.get_buffer(f"pending_{head}").copy_(_mean_logits(output))
                self.get_buffer(f"has_pending_{head}").fill_(True)
        return assignments

    @torch.no_grad()
    def apply_pending(self, head: int) -> None:
        """Move a head's center towards the mean of the last batch, once."""
        pending = self.get_buffer(f"has_pending_{head}")
        center = self.get_buffer(f"center_{head}")
        moved = torch.lerp(self.get_buffer(f"pending_{head}"), center, self.momentum)
        center.copy_(torch.where(pending, moved, center))
        pending.fill_(False)

    def forget_pending(self) -> None:
        """Drop the means of the last batch, whose loss was not finite."""
        for name, buffer in self.named_buffers():
            if "pending" in name:
                buffer.zero_()


def _over_tokens(output: TeacherOutputs, v: Sequence[Tensor]) -> Tensor:
    """Return each shard's log-sums over its tokens, (shards, K); -inf for a shard that has none."""
    log_sums = output.prototypes.new_empty((len(v), len(output.prototypes)), dtype=v[0].dtype)
    for shard, of_tokens in enumerate(v):
        for chunk in output.chunks:
            logits = output.logits(shard, chunk)
            log_sums[shard, chunk] = (logits + of_tokens[:, None]).logsumexp(dim=0)
    return log_sums


def _normalizing(output: TeacherOutputs, u: Tensor) -> list[Tensor]:
    """Return the v for each shard that make every token's probabilities sum to one."""
    vs = []
    for shard in range(len(output.features)):
        normalizer, *others = [
            (output.logits(shard, chunk) + u[chunk]).logsumexp(dim=1) for chunk in output.chunks
        ]
        for of_chunk in others:
            normalizer = torch.logaddexp(normalizer, of_chunk)
        vs.append(normalizer.neg())
    return vs


def _mean_logits(output: TeacherOutputs) -> Tensor:
    """Return the mean of all shards' logits, (1, K)."""
    dtype = torch.promote_types(output.prototypes.dtype, torch.float32)
    sums = torch.stack([features.to(dtype).sum(dim=0) for features in output.features])
    mean = sums.sum(dim=0) / len(output)
    return (output.prototypes.to(dtype) @ mean)[None]


def _zeros(features: Tensor) -> Tensor:
    dtype = torch.promote_types(features.dtype, torch.float32)
    return features.new_zeros(len(features), dtype=dtype)


def _no_tokens(output: TeacherOutputs) -> tuple[Tensor, list[Tensor]]:
    return _zeros(output.prototypes), [_zeros(features) for features in output.features]
