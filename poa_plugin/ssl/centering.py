"""Teacher targets: Sinkhorn-Knopp, and the centering alternative."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Return teacher probabilities that use all prototypes equally (SwAV; POA eq. 5's SK).

    Works on logarithms, so that no logit overflows: exponentials of logit / temperature pass the
    range of float32 at a logit of 88 times the temperature. The result is the target itself; the
    published code takes no further softmax of it.

    Args:
        logits: (N, K), all samples that are balanced together, whatever rank or shard they are of.
        temperature: the teacher's.
        iterations: normalizations of prototypes and then samples.

    Returns:
        (N, K) float32; each row sums to one.
    """
    log_q = logits.float() / temperature
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, dim=0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return log_q.exp()


class SinkhornKnopp(nn.Module):
    """Targets of every head by Sinkhorn-Knopp over all samples; keeps no state."""

    def forward(self, logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
        """Map each head's (N, K) logits to (N, K) targets."""
        return [sinkhorn_knopp(x, temperature) if len(x) else x.float() for x in logits]


class Centering(nn.Module):
    """Targets softmax((logits - center) / T), the center a running mean (DINO).

    The batch's own mean enters the center only after it has been used: an update is kept until the
    next call, as in DINOv2 `loss/dino_clstoken_loss.py`.

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
    def forward(self, logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
        """Map each head's (N, K) logits to (N, K) targets, and note the batch's means."""
        targets = []
        for head, x in enumerate(logits):
            self.apply_pending(head)
            center = self.get_buffer(f"center_{head}")
            targets.append(torch.softmax((x.float() - center) / temperature, dim=-1))
            if len(x):
                self.get_buffer(f"pending_{head}").copy_(x.float().mean(dim=0, keepdim=True))
                self.get_buffer(f"has_pending_{head}").fill_(True)
        return targets

    @torch.no_grad()
    def apply_pending(self, head: int) -> None:
        """Move a head's center towards the mean of the last batch, once."""
        pending = self.get_buffer(f"has_pending_{head}")
        center = self.get_buffer(f"center_{head}")
        moved = torch.lerp(self.get_buffer(f"pending_{head}"), center, self.momentum)
        center.copy_(torch.where(pending, moved, center))
        pending.fill_(False)

    def forget_pending(self) -> None:
        """Drop the means of the last batch, which was not fit for use."""
        for name, buffer in self.named_buffers():
            if "pending" in name:
                buffer.zero_()
