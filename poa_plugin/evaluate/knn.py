"""Weighted k nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.errors import UserError

SIMILARITIES_AT_A_TIME = 2**26
"""Bound on the similarities held at once (half a gibibyte), whatever the number of training samples."""

DECIMALS = 10
"""Cosines are float64, rounded: the last bits of a matrix product depend on its shape, and would decide
between neighbours that are equally near, such as copies of one image."""


@torch.inference_mode()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Sequence[int] | None,
    test_features: Tensor,
    test_labels: Sequence[int] | None,
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
        chunk: most test samples compared at a time; it bounds the memory and changes nothing else.

    Raises:
        UserError: there are fewer training samples than the largest k, labels are missing, features
            are not finite, or the temperature is not positive.
    """
    check_votes(len(train_features), len(test_features), ks, temperature)
    if not (train_features.isfinite().all() and test_features.isfinite().all()):
        raise UserError("The features are not finite: the weights of this network are broken.")
    labels = _labels(train_labels, train_features, "training")
    truth = _labels(test_labels, test_features, "test")
    bank = F.normalize(train_features.double(), dim=1)
    n_classes = int(max(labels.max(), truth.max())) + 1
    correct = dict.fromkeys(sorted(ks), 0)
    step = max(1, min(chunk, SIMILARITIES_AT_A_TIME // len(bank)))
    for start in range(0, len(test_features), step):
        queries = F.normalize(test_features[start : start + step].double(), dim=1)
        cosines = (queries @ bank.T).round_(decimals=DECIMALS)
        similarity, nearest = cosines.topk(max(ks), dim=1)
        weights = torch.softmax(similarity / temperature, dim=1)
        votes, counted = weights.new_zeros(len(queries), n_classes), 0
        for k in correct:  # the nearest k, beyond those that are counted already
            votes.scatter_add_(1, labels[nearest[:, counted:k]], weights[:, counted:k])
            correct[k] += int((votes.argmax(dim=1) == truth[start : start + step]).sum())
            counted = k
    return {k: 100 * correct[k] / len(test_features) for k in ks}


def check_votes(n_train: int, n_test: int, ks: Sequence[int], temperature: float) -> None:
    """Raise a `UserError` if so many samples cannot vote as `knn_accuracy` is asked to let them."""
    if not ks or min(ks) < 1 or max(ks) > n_train:
        raise UserError(f"k must be between 1 and the {n_train} training samples, not {list(ks)}.")
    if not n_test:
        raise UserError("There are no test samples to classify.")
    if not temperature > 0:
        raise UserError(f"The temperature of the votes must be positive, not {temperature}.")


def _labels(labels: Sequence[int] | None, features: Tensor, split: str) -> Tensor:
    """Return the labels as (N,) class indices, one for each sample."""
    n_labels = 0 if labels is None else len(labels)
    if labels is None or n_labels != len(features):
        raise UserError(
            f"k-NN needs a label for each sample: there are {n_labels} labels for "
            f"{len(features)} {split} samples."
        )
    indices = torch.as_tensor(labels)
    if indices.min() < 0:
        raise UserError(f"k-NN needs a label for each sample: a {split} sample has none (-1).")
    return indices
