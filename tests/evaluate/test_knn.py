"""k nearest neighbors against a plain loop, features, and results."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.errors import UserError
from poa_plugin.evaluate.features import evaluation_images, extract_features, raw_pixels
from poa_plugin.evaluate.knn import KS, fitting_ks, knn_accuracy
from poa_plugin.runs.results import KnnRow, merge_rows, read_rows, results_table, short, write_rows


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


def test_many_networks_in_one_pass() -> None:
    evaluation = OmegaConf.structured(EvaluationConfig(resize_size=16, crop_size=12, batch_size=2))
    assert [len(x) for x in evaluation_images(Pictures(), evaluation)] == [2, 2, 1]
    assert {x.shape[1:] for x in evaluation_images(Pictures(), evaluation)} == {(3, 12, 12)}
    networks = {
        "mean": lambda x: {"x_norm_clstoken": x.mean((2, 3))},
        "corner": lambda x: {"x_norm_clstoken": x[:, :, 0, 0].half()},
    }
    both = extract_features(networks, Pictures(), evaluation)
    assert {key: (x.shape, x.dtype) for key, x in both.items()} == dict.fromkeys(
        ("mean", "corner"), ((5, 3), torch.float32)
    )
    for name, network in networks.items():
        alone = extract_features({name: network}, Pictures(), evaluation)[name]
        assert torch.equal(both[name], alone)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    evaluation = OmegaConf.structured(EvaluationConfig(resize_size=12, crop_size=16))
    with pytest.raises(UserError, match=r"crop_size' is 16: it must not exceed"):
        next(evaluation_images(Pictures(), evaluation))


def test_raw_pixels_of_gray_and_color_images() -> None:
    pixels = raw_pixels(Pictures(), 8)
    assert pixels.shape == (5, 3 * 64)
    assert 0 <= pixels.min() < pixels.max() <= 1
    planes = pixels.unflatten(1, (3, 64))
    gray = [torch.equal(image[0], image[1]) for image in planes]
    assert gray == [True, False, True, False, True]


def row(network: str, kind: str = "trained", top1: float = 50.0, k: int = 20) -> KnnRow:
    return KnnRow(network, kind, k, top1, width=48, depth=2, params=1_230_000, flops=45_600_000)


def test_rows_are_merged_written_and_read(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == []
    old = [row("w48_d2"), row("w48_d2", k=10), row("raw", "pixels")]
    merged = merge_rows(old, [row("w48_d2", top1=60.0), row("w48_d2", "untrained", 40.0)])
    write_rows(tmp_path, merged)
    assert read_rows(tmp_path) == merged
    found = {(r.network, r.kind, r.k): r.top1 for r in merged}
    assert found["w48_d2", "trained", 20] == 60.0
    assert len(merged) == 4
    assert (tmp_path / "knn.csv").read_text().count("\n") == 5
    assert not list(tmp_path.glob("*.partial"))
    written = (tmp_path / "knn.json").read_text()
    for damaged, said in [
        ("[{]", "cannot be read"),
        (written.replace('"pixels"', '"pixel"'), "unknown kind 'pixel'; did you mean 'pixels'"),
        (written.replace("60.0", '"60"'), "'w48_d2' holds something that is not a number"),
    ]:
        (tmp_path / "knn.json").write_text(damaged)
        with pytest.raises(UserError, match=said):
            read_rows(tmp_path)


def test_the_table_sets_trained_beside_untrained() -> None:
    table = results_table([row("w48_d2", top1=60.0), row("w48_d2", "untrained", 40.0)])
    [head, line] = table.splitlines()
    assert head.split()[:3] == ["network", "params", "FLOPs"]
    assert line.split() == ["w48_d2", "1.23M", "45.6M", "20", "60.0", "40.0", "+20.0"]


def test_the_table_shows_uncertainty() -> None:
    rows = [
        replace(row(name, kind, top1), n_test=600)
        for name, kind, top1 in (
            ("w48_d2", "trained", 60.0),
            ("w48_d2", "untrained", 40.0),
            ("w64_d2", "trained", 70.0),
            ("w80_d2", "trained", 72.0),
        )
    ]
    _, first, second, third, note = results_table([*rows, row("raw", "pixels", 70.0)]).splitlines()[
        :5
    ]
    assert first.split()[4:] == ["60.0", "±2.0", "40.0", "±2.0", "+20.0"]
    assert second.split()[4:] == ["70.0", "±1.9", "≈"]
    assert third.split()[4:] == ["72.0", "±1.8"]
    assert note.split()[0] == "pixels:"
    said = results_table(rows).splitlines()[-1]
    assert said.startswith(
        "± is one standard error on 600 test images; ≈ is not distinguishable from"
    )


@pytest.mark.parametrize(
    ("number", "wanted"), [(21_674_880, "21.7M"), (4_607_954_304, "4.61G"), (512, "512"), (0, "-")]
)
def test_short_numbers(number: int, wanted: str) -> None:
    assert short(number) == wanted
