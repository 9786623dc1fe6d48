"""Weighted k nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.errors import UserError


@torch.inference_mode()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Sequence[int],
    test_features: Tensor,
    test_labels: Sequence[int],
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    chunk: int = 1024,
) -> dict[int, float]:
    """Return top-1 accuracy in percent for each k (the paper's protocol, DINOv2 `eval/knn.py`).

    Features are L2-normalised and compared by cosine. The votes of the max(ks) nearest neighbours
    are the softmax of similarity / temperature over them; for a smaller k the nearest k vote.

    Args:
        train_features, test_features: (N, D) and (M, D).
        train_labels, test_labels: N and M class indices.
        ks: numbers of neighbours.
        temperature: of the softmax.
        chunk: test samples compared at a time, which bounds the memory and changes nothing else.

    Raises:
        UserError: there are fewer training samples than the largest k, or features are not finite.
    """
    largest = max(ks)
    if min(ks) < 1 or largest > len(train_features):
        raise UserError(
            f"k must be between 1 and the {len(train_features)} training samples, not {list(ks)}."
        )
    if not (train_features.isfinite().all() and test_features.isfinite().all()):
        raise UserError("The features are not finite: the weights of this network are broken.")
    bank = F.normalize(train_features.float(), dim=1)
    labels, truth = torch.as_tensor(train_labels), torch.as_tensor(test_labels)
    n_classes = int(max(labels.max(), truth.max())) + 1
    correct = dict.fromkeys(ks, 0)
    for start in range(0, len(test_features), chunk):
        queries = F.normalize(test_features[start : start + chunk].float(), dim=1)
        similarity, nearest = (queries @ bank.T).topk(largest, dim=1)
        weights = torch.softmax(similarity / temperature, dim=1)
        votes = F.one_hot(labels[nearest], n_classes) * weights.unsqueeze(-1)
        for k in ks:
            predicted = votes[:, :k].sum(dim=1).argmax(dim=1)
            correct[k] += int((predicted == truth[start : start + chunk]).sum())
    return {k: 100 * right / len(test_features) for k, right in correct.items()}
