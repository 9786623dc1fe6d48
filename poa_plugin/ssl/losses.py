"""The loss terms, each a function of tensors (POA section 3.3; iBOT; KoLeo)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / temperature), (N, K), in float32, or float64 for float64 logits."""
    return F.log_softmax(at_least_float32(logits) / temperature, dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy(targets: Tensor, log_probs: Tensor) -> Tensor:
    """Return the mean over samples of -sum(target * log p); two (N, K), a scalar."""
    return -(targets * log_probs).sum(dim=-1).mean()


def cross_view(
    targets: Tensor,
    global_log_probs: Tensor,
    local_log_probs: Tensor | None,
    normalization: str = "code",
) -> tuple[Tensor, Tensor]:
    """Return the global and the local part of the cross-view term of one student and one head.

    Every pair of a student's view and another view's teacher target contributes the batch mean of a
    cross-entropy: 2 pairs of global views and 2 V pairs of a local view with a global target.

    Args:
        targets: (2 B, K) teacher probabilities, view-major, in the order of the views.
        global_log_probs: (2 B, K) of the student, in the same order.
        local_log_probs: (V * B, K), view-major; None if there are no local crops.
        normalization: `code` weighs all 2 V + 2 pairs alike (published code); `paper` gives the
            mean of the global pairs and the mean of the local pairs weight 1 each (POA eq. 6-10).

    Returns:
        Two scalars, whose sum is the term.
    """
    view_a, view_b = targets.chunk(2)
    batch = len(view_a)
    swapped = torch.cat([view_b, view_a])
    global_rows = -(swapped * global_log_probs).sum(dim=-1)
    if local_log_probs is None:
        return cross_view_means(global_rows, None, 0, normalization)
    n_local = len(local_log_probs) // batch
    over_crops = local_log_probs.unflatten(0, (n_local, batch)).sum(dim=0)
    local_rows = -((view_a + view_b) * over_crops).sum(dim=-1)
    return cross_view_means(global_rows, local_rows, n_local, normalization)


def cross_view_means(
    global_rows: Tensor, local_rows: Tensor | None, n_local: int, normalization: str = "code"
) -> tuple[Tensor, Tensor]:
    """Return the global and the local part of `cross_view` from the cross-entropies of its rows.

    Args:
        global_rows: (2 B,), a global view with the other one's target.
        local_rows: of local views with the sum of both targets, any number of rows that add up to all
            of them; None if there are no local crops.
        n_local: V, local views of an image.
        normalization: see `cross_view`.
    """
    batch = len(global_rows) // 2
    global_sum = global_rows.sum() / batch
    if local_rows is None:
        return global_sum / 2, global_sum.new_zeros(())
    local_sum = local_rows.sum() / batch
    if normalization == "paper":
        return global_sum / 2, local_sum / (2 * n_local)
    pairs = 2 * n_local + 2
    return global_sum / pairs, local_sum / pairs


def same_view(intact_log_probs: Tensor, elastic_log_probs: Tensor) -> Tensor:
    """Return the distillation of the intact into the elastic student on the same crops.

    The targets are softmax(intact logits / temperature), detached: no centering, and the student's
    temperature (POA eq. 7, 9; published code).

    Args:
        intact_log_probs, elastic_log_probs: (N, K).
    """
    return cross_entropy(intact_log_probs.detach().exp(), elastic_log_probs)


def masked_patch(targets: Tensor, log_probs: Tensor, weights: Tensor, n_images: int) -> Tensor:
    """Return iBOT's term: the mean over images of the mean over their masked patches.

    Args:
        targets, log_probs: (M, K) for the masked patches of all images.
        weights: (M,), one over the number of masked patches in the patch's image.
        n_images: the images, those without a mask included (published code).
    """
    return masked_patch_mean(-(targets * log_probs).sum(dim=-1), weights, n_images)


def masked_patch_mean(rows: Tensor, weights: Tensor, n_images: int) -> Tensor:
    """Return `masked_patch` from the (M,) cross-entropies of its patches."""
    return (rows * weights).sum() / n_images


def koleo(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Return KoLeo's differential-entropy regularizer, which spreads features apart.

    -mean log(distance to the nearest neighbor + eps) of L2-normalized features (Sablayrolles et
    al.; DINOv2 `loss/koleo_loss.py`); 0 where a single feature has no neighbor.

    Args:
        features: (B, D).
        eps: added to each component of a difference and to the distance.
    """
    if len(features) < 2:
        return features.new_zeros(())
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(at_least_float32(features), eps=eps, dim=-1)
        similarity = x.detach() @ x.detach().T
        nearest = similarity.fill_diagonal_(-1).argmax(dim=1)
        distances = F.pairwise_distance(x, x[nearest], p=2, eps=eps)
        return -torch.log(distances + eps).mean()
