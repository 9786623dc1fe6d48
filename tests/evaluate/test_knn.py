"""k nearest neighbors against a plain loop, features, and results."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.errors import UserError
from poa_plugin.evaluate.evaluator import raw_pixels
from poa_plugin.evaluate.knn import KS, fitting_ks, knn_accuracy
from poa_plugin.evaluate.splits import EvaluationImages
from poa_plugin.registry import PROTOCOLS
from poa_plugin.runs.uncertainty import standard_error


def plain_knn(
    train: Tensor, labels: list[int], test: Tensor, truth: list[int], ks: list[int], temp: float
) -> dict[int, float]:
    """The protocol, one test sample and one vote at a time."""
    right = dict.fromkeys(ks, 0)
    for query, wanted in zip(test.double(), truth, strict=True):
        scores = [float(query @ x / (query.norm() * x.norm())) for x in train.double()]
        nearest = sorted(range(len(train)), key=lambda i: -scores[i])[: max(ks)]
        total = sum(math.exp(scores[i] / temp) for i in nearest)
        for k in ks:
            votes: dict[int, float] = defaultdict(float)
            for i in nearest[:k]:
                votes[labels[i]] += math.exp(scores[i] / temp) / total
            right[k] += max(votes, key=lambda label: votes[label]) == wanted
    return {k: 100 * n / len(truth) for k, n in right.items()}


def test_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    train, test = torch.randn(60, 5), torch.randn(40, 5)
    labels, truth = (torch.randint(0, 4, (n,)).tolist() for n in (60, 40))
    wanted = plain_knn(train, labels, test, truth, [1, 5, 20], 0.07)
    for chunk in (1, 7, 1000):
        found = knn_accuracy(train, labels, test, truth, [1, 5, 20], 0.07, chunk)
        assert found == pytest.approx(wanted)


def test_clusters_are_found_and_shuffled_labels_are_at_chance() -> None:
    torch.manual_seed(0)
    centers = torch.randn(4, 8) * 5
    labels = torch.arange(400) % 4
    points = centers[labels] + torch.randn(400, 8)
    halves = (points[:200], labels[:200].tolist(), points[200:], labels[200:].tolist())
    assert knn_accuracy(*halves, ks=[10])[10] == 100
    shuffled = labels[torch.randperm(400)]
    found = knn_accuracy(
        points[:200], shuffled[:200].tolist(), points[200:], shuffled[200:].tolist(), ks=[10]
    )
    assert found[10] == pytest.approx(25, abs=10)


def test_length_does_not_matter_to_cosines() -> None:
    train, test = torch.tensor([[1.0, 0.0], [0.0, 9.0]]), torch.tensor([[50.0, 1.0], [0.1, 0.2]])
    assert knn_accuracy(train, [0, 1], test, [0, 1], ks=[1]) == {1: 100.0}


def test_the_chunk_changes_nothing() -> None:
    torch.manual_seed(0)
    points = torch.randn(500, 96)
    labels = torch.randint(0, 8, (500,)).tolist()
    copies, collapsed = points[:50].repeat(10, 1), points[:1].repeat(500, 1)
    alike = 300 + points  # cosines that differ by about as much as float32 can tell
    for train, test in ((copies, points), (collapsed, collapsed), (alike, alike.flip(0))):
        found = [
            knn_accuracy(train, labels, test[:131], labels[:131], [1, 10, 20], chunk=chunk)
            for chunk in (1, 2, 7, 100, 131, 1000)
        ]
        assert found == [found[0]] * len(found)


def test_the_nearest_outvotes_a_majority_that_is_far() -> None:
    angles = torch.tensor([0.0, 0.6, 0.62, 3.0])
    train, test = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([[1.0, 0.0]])
    labels = [1, 0, 0, 1]
    # weights: exp(1 / T), exp(0.825 / T), exp(0.814 / T): at T = 0.07 the nearest has 0.87 of them
    assert knn_accuracy(train, labels, test, [1], [1, 3]) == {1: 100.0, 3: 100.0}
    assert knn_accuracy(train, labels, test, [1], [3], temperature=10) == {3: 0.0}


def test_larger_k_do_not_change_what_a_smaller_one_sees() -> None:
    """The softmax is over max(ks), the votes of a smaller k are cut off from it, not renormalized."""
    torch.manual_seed(0)
    train, test = torch.randn(90, 4), torch.randn(400, 4)
    labels, truth = torch.randint(0, 3, (90,)).tolist(), torch.randint(0, 3, (400,)).tolist()
    together = knn_accuracy(train, labels, test, truth, [40, 5, 5, 90], temperature=1)
    assert list(together) == [40, 5, 90]
    for k, top1 in together.items():
        assert knn_accuracy(train, labels, test, truth, [k], temperature=1) == {k: top1}


def test_what_is_wrong_is_said() -> None:
    x, y = torch.randn(5, 2), [0] * 5
    with pytest.raises(UserError, match="between 1 and the 5 training samples"):
        knn_accuracy(x, y, x, y, ks=[6])
    with pytest.raises(UserError, match="between 1 and"):
        knn_accuracy(x, y, x, y, ks=[0])
    with pytest.raises(UserError, match="not finite"):
        knn_accuracy(x, y, x * float("nan"), y, ks=[1])
    with pytest.raises(UserError, match="between 1 and"):
        knn_accuracy(x, y, x, y, ks=[])
    with pytest.raises(UserError, match="0 labels for 5 training samples"):
        knn_accuracy(x, None, x, y, ks=[1])
    with pytest.raises(UserError, match="1 labels for 5 test samples"):
        knn_accuracy(x, y, x, [0], ks=[1])
    with pytest.raises(UserError, match="a test sample has none"):
        knn_accuracy(x, y, x, [0, 0, -1, 0, 0], ks=[1])
    with pytest.raises(UserError, match="no test samples"):
        knn_accuracy(x, y, x[:0], [], ks=[1])
    for temperature in (0, -1.0, math.nan, math.inf, -math.inf, 1e30, 1e-320):
        with pytest.raises(UserError, match=r"must be positive, from 1e-06 to 1e\+06, not"):
            knn_accuracy(x, y, x, y, ks=[1], temperature=temperature)


@pytest.mark.parametrize(
    ("n_train", "ks"),
    [(1, (1,)), (9, (9,)), (10, (10,)), (99, (10, 20)), (200, (10, 20, 100, 200)), (10**6, KS)],
)
def test_the_ks_that_fit(n_train: int, ks: tuple[int, ...]) -> None:
    assert fitting_ks(n_train) == ks


class Pictures:
    labels, classes = [0] * 5, ["a"]

    def __len__(self) -> int:
        return 5

    def image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        channels = 1 + 2 * (index % 2)
        return torch.randint(
            0, 256, (channels, 20 + index, 30), generator=generator, dtype=torch.uint8
        )

    def name(self, index: int) -> str:
        return str(index)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    evaluation = OmegaConf.structured(EvaluationConfig(resize_size=12, crop_size=16))
    with pytest.raises(UserError, match=r"crop_size' is 16: it must not exceed"):
        EvaluationImages(Pictures(), evaluation, 0)


def test_raw_pixels_of_gray_and_color_images() -> None:
    pixels = torch.cat(list(raw_pixels(Pictures())))
    assert pixels.shape == (5, 3 * 32**2)
    assert 0 <= pixels.min() < pixels.max() <= 1
    planes = pixels.unflatten(1, (3, 32**2))
    gray = [torch.equal(image[0], image[1]) for image in planes]
    assert gray == [True, False, True, False, True]


def test_the_protocol_is_built_by_its_name_and_scores_features() -> None:
    protocol = PROTOCOLS.get("knn")(Pictures(), Pictures(), ks=[3, 1, 3], temperature=0.1)
    assert (protocol.name, protocol.metrics) == ("knn", ["top1_k3", "top1_k1"])
    assert protocol.conditions == {"temperature": 0.1}
    scores = protocol(
        torch.randn(5, 4).half(), torch.randn(5, 4).half(), torch.device("cpu"), 10**6
    )
    assert set(scores) == set(protocol.metrics)
    assert scores["top1_k1"] == (100.0, standard_error(100.0, 5))
    with pytest.raises(UserError, match="k must be between 1 and the 5 training samples"):
        PROTOCOLS.get("knn")(Pictures(), Pictures(), ks=[6])
    with pytest.raises(UserError, match="Unknown evaluation protocol 'nkn': did you mean 'knn'"):
        PROTOCOLS.get("nkn")
