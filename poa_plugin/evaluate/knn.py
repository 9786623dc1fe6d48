"""Weighted k nearest neighbors on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poa_plugin.data import Dataset
from poa_plugin.errors import UserError
from poa_plugin.evaluate.neighbors import build_search
from poa_plugin.evaluate.protocol import Score
from poa_plugin.registry import PROTOCOLS
from poa_plugin.runs.uncertainty import standard_error

KS = (10, 20, 100, 200)
"""The numbers of neighbors of the paper's and DINOv2's protocol."""

TEMPERATURES = (1e-6, 1e6)
"""Outside of them a softmax of cosines is all in one neighbor, or the same for all, or not a number."""

ROWS_AT_A_TIME = 2**16


@PROTOCOLS.register_as("knn")
class KNN:
    """Top-1 accuracy of k nearest neighbors, an `EvaluationProtocol`.

    Args:
        train, test: data sets with labels.
        ks: numbers of neighbors; those of `KS` that the training images allow if None.
        temperature: see `knn_accuracy`.

    Raises:
        UserError: there are fewer training images than the largest k, or a number is out of range.
    """

    name = "knn"

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        ks: Sequence[int] | None = None,
        temperature: float = 0.07,
    ) -> None:
        self.labels = (train.labels, test.labels)
        self.ks = fitting_ks(len(train)) if ks is None else tuple(dict.fromkeys(ks))
        self.temperature = temperature
        check_votes(len(train), len(test), self.ks, temperature)
        self.conditions = {"temperature": temperature}
        self.phrase = f"temperature {temperature:g}"
        self.metrics = [f"top1_k{k}" for k in self.ks]

    def __call__(
        self, train: Tensor, test: Tensor, device: torch.device, memory: int
    ) -> dict[str, Score]:
        """Return the accuracy in percent at each k."""
        top1 = knn_accuracy(
            train,
            self.labels[0],
            test,
            self.labels[1],
            self.ks,
            self.temperature,
            device=device,
            memory=memory,
        )
        return {
            f"top1_k{k}": Score(value, standard_error(value, len(test)))
            for k, value in top1.items()
        }


@torch.inference_mode()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Sequence[int] | None,
    test_features: Tensor,
    test_labels: Sequence[int] | None,
    ks: Sequence[int] = KS,
    temperature: float = 0.07,
    chunk: int = 1024,
    device: torch.device | str = "cpu",
    memory: int | None = None,
) -> dict[int, float]:
    """Return top-1 accuracy in percent for each k (the paper's protocol, DINOv2 `eval/knn.py`).

    Features are L2-normalized and compared by cosine. The votes of the max(ks) nearest neighbors
    are the softmax of similarity / temperature over them; for a smaller k the nearest k vote.

    Args:
        train_features, test_features: (N, D) and (M, D), of any floating-point type.
        train_labels, test_labels: N and M class indices.
        ks: numbers of neighbors.
        temperature: of the softmax.
        chunk: most test samples compared at a time; it bounds the memory and changes nothing else.
        device: where neighbors are searched; it changes nothing but the time.
        memory: bytes that a search on the CPU may take, see `build_search`; None: what is fastest.

    Raises:
        UserError: there are fewer training samples than the largest k, labels are missing, features
            are not finite, or the temperature is not positive.
    """
    check_votes(len(train_features), len(test_features), ks, temperature)
    if not (_finite(train_features) and _finite(test_features)):
        raise UserError("The features are not finite: the weights of this network are broken.")
    labels = _labels(train_labels, train_features, "training")
    truth = _labels(test_labels, test_features, "test")
    search = build_search(train_features, ks, torch.device(device), chunk, memory)
    n_classes = int(max(labels.max(), truth.max())) + 1
    correct = dict.fromkeys(sorted(ks), 0)
    for start in range(0, len(test_features), search.step):
        similarity, nearest = search.nearest(test_features[start : start + search.step])
        weights = torch.softmax(similarity / temperature, dim=1)
        votes, counted = weights.new_zeros(len(weights), n_classes), 0
        for k in correct:  # the nearest k, beyond those that are counted already
            votes.scatter_add_(1, labels[nearest[:, counted:k]], weights[:, counted:k])
            correct[k] += int((votes.argmax(dim=1) == truth[start : start + search.step]).sum())
            counted = k
    return {k: 100 * correct[k] / len(test_features) for k in ks}


def fitting_ks(n_train: int) -> tuple[int, ...]:
    """Return those of `KS` that do not exceed the number of training samples; if none, that number."""
    return tuple(k for k in KS if k <= n_train) or (n_train,)


def check_votes(n_train: int, n_test: int, ks: Sequence[int], temperature: float) -> None:
    """Raise a `UserError` if so many samples cannot vote as `knn_accuracy` is asked to let them."""
    if not ks or min(ks) < 1 or max(ks) > n_train:
        raise UserError(f"k must be between 1 and the {n_train} training samples, not {list(ks)}.")
    if not n_test:
        raise UserError("There are no test samples to classify.")
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise UserError(
            f"The temperature of the votes must be positive, from {low:g} to {high:g}, not {temperature}."
        )


def _finite(features: Tensor) -> bool:
    return all(bool(block.isfinite().all()) for block in features.split(ROWS_AT_A_TIME))


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
