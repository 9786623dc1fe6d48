"""Teacher targets: Sinkhorn-Knopp, and the centering alternative, over chunks of prototypes and shards.

Both are exp(logits / temperature + u + v) with one number a prototype and one a token (`Assignments`). A
sum over tokens is made shard by shard, and the shards of all ranks are joined in their order, so that targets
have the same bits however shards are distributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from poa_plugin import ranks
from poa_plugin.ssl.assignments import Assignments, TeacherOutputs


@torch.no_grad()
def sinkhorn_knopp(outputs: Sequence[TeacherOutputs], iterations: int = 3) -> list[Assignments]:
    """Return probabilities that use all prototypes equally (SwAV; POA eq. 5's SK).

    Works on logarithms, so that no logit overflows: exponentials of logit / temperature pass the range of
    float32 at a logit of 88 times the temperature. An iteration normalizes prototypes, with one exchange
    between ranks, and then tokens; the pass over a shard's logits that normalizes its tokens also sums what
    the next iteration needs. The result is the target itself; the published code takes no softmax of it.

    Args:
        outputs: heads and kinds of tokens, each balanced separately, over the tokens of all shards; the same
            heads and kinds on every rank, whether or not it has tokens of them.
        iterations: normalizations of prototypes and then tokens.
    """
    sizes = [len(output.prototypes) for output in outputs]
    us: Sequence[Tensor] = []
    vs: list[list[Tensor]] = []
    sums = [_over_tokens(output) for output in outputs]
    for iteration in range(iterations):
        us = ranks.gathered(torch.cat(sums, dim=1)).logsumexp(dim=0).neg().split(sizes)
        is_last = iteration + 1 == iterations
        vs = [
            _normalizing(output, u, None if is_last else of_head)
            for output, u, of_head in zip(outputs, us, sums, strict=True)
        ]
    return [Assignments(*parts) for parts in zip(outputs, us, vs, strict=True)]


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
        for head, (output, mean) in enumerate(zip(outputs, _mean_features(outputs), strict=True)):
            self.apply_pending(head)
            u = self.get_buffer(f"center_{head}")[0] / -output.temperature
            assignments.append(Assignments(output, u, _normalizing(output, u)))
            has_tokens = torch.isfinite(mean).all()
            logits = (output.prototypes.to(mean.dtype) @ mean)[None]
            pending = self.get_buffer(f"pending_{head}")
            pending.copy_(torch.where(has_tokens, logits, pending))
            self.get_buffer(f"has_pending_{head}").copy_(has_tokens)
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


def _over_tokens(output: TeacherOutputs) -> Tensor:
    """Return each shard's log-sums over its tokens, (shards, K); -inf for a shard that has none."""
    dtype = torch.promote_types(output.prototypes.dtype, torch.float32)
    shape = (len(output.features), len(output.prototypes))
    log_sums = output.prototypes.new_empty(shape, dtype=dtype)
    for shard in range(len(output.features)):
        for chunk in output.chunks:
            log_sums[shard, chunk] = output.logits(shard, chunk).logsumexp(dim=0)
    return log_sums


def _normalizing(output: TeacherOutputs, u: Tensor, log_sums: Tensor | None = None) -> list[Tensor]:
    """Return the v for each shard that make every token's probabilities sum to one.

    Args:
        output: of a head, for the tokens of one kind.
        u: (K,).
        log_sums: (shards, K), to be filled with each shard's log-sums of logits + v over its tokens.
    """
    *before_last, last = output.chunks
    vs = []
    for shard in range(len(output.features)):
        parts = []
        for chunk in output.chunks:
            logits = output.logits(shard, chunk)
            parts.append((logits + u[chunk]).logsumexp(dim=1))
        v = reduce(torch.logaddexp, parts).neg()
        vs.append(v)
        if log_sums is not None:
            log_sums[shard, last] = (logits + v[:, None]).logsumexp(dim=0)
            for chunk in before_last:
                log_sums[shard, chunk] = (output.logits(shard, chunk) + v[:, None]).logsumexp(dim=0)
    return vs


def _mean_features(outputs: Sequence[TeacherOutputs]) -> Sequence[Tensor]:
    """Return the mean over the tokens of all shards of all ranks, (D,) for each head; nan if there are none."""
    of_shards = []
    for features in zip(*(output.features for output in outputs), strict=True):
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        count = features[0].new_full((1,), len(features[0]), dtype=dtype)
        of_shards.append(torch.cat([*(x.to(dtype).sum(dim=0) for x in features), count]))
    *sums, counts = ranks.gathered(torch.stack(of_shards)).split(
        [*(output.prototypes.shape[1] for output in outputs), 1], dim=1
    )
    return [x.sum(dim=0) / counts.sum() for x in sums]
