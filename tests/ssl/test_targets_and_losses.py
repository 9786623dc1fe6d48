"""Targets and loss terms against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from poa_plugin.ssl import losses
from poa_plugin.ssl.centering import Centering
from poa_plugin.ssl.heads import MultiHead
from tests.ssl.outputs import ONE_CHUNK, balanced, with_logits


def _published_sinkhorn(logits: torch.Tensor, temp: float, iterations: int) -> torch.Tensor:
    """The exponential form in float64, the total normalized first."""
    q = torch.exp(logits.double() / temp).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T.float()


@pytest.mark.parametrize("width", [5, ONE_CHUNK])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_is_the_exponential_form(iterations: int, width: int) -> None:
    logits = torch.randn(20, 12)
    actual = balanced(logits, 0.07, iterations, width)
    expected = _published_sinkhorn(logits, 0.07, iterations)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)


def test_sinkhorn_balances_prototypes_and_samples() -> None:
    actual = balanced(torch.randn(60, 10), 0.5, 50)
    torch.testing.assert_close(actual.sum(1), torch.ones(60))
    torch.testing.assert_close(actual.sum(0), torch.full((10,), 6.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [3.6, 100.0, 1e4])
def test_sinkhorn_survives_logits_that_overflow_an_exponential(size: float) -> None:
    """exp(x / 0.04) is infinite in float32 from x = 3.55 on."""
    logits = torch.randn(16, 8)
    logits[0, 0] = size
    actual = balanced(logits, 0.04)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.sum(1), torch.ones(16))


def test_centering_uses_the_mean_of_earlier_batches_only() -> None:
    centering, temp = Centering([5], momentum=0.9), 0.1
    first, second = torch.randn(7, 5), torch.randn(7, 5)
    [actual] = centering([with_logits(first.split([3, 4]), temp, 2)])
    torch.testing.assert_close(actual.all_of(0), torch.softmax(first[:3] / temp, -1))
    [actual] = centering([with_logits([second], temp)])
    center = 0.1 * first.mean(0)
    torch.testing.assert_close(actual.all_of(0), torch.softmax((second - center) / temp, -1))


def test_centering_ignores_an_empty_batch() -> None:
    centering = Centering([5])
    centering([with_logits([torch.zeros(0, 5)], 0.1)])
    assert not centering.has_pending_0


@pytest.mark.parametrize("normalization", ["code", "paper"])
def test_cross_view_pairs(normalization: str) -> None:
    batch, n_local, k = 3, 4, 6
    targets = torch.softmax(torch.randn(2 * batch, k), -1)
    global_logp = torch.log_softmax(torch.randn(2 * batch, k), -1)
    local_logp = torch.log_softmax(torch.randn(n_local * batch, k), -1)

    def pair(target: torch.Tensor, logp: torch.Tensor) -> float:
        return -(target * logp).sum(-1).mean().item()

    views, students = targets.chunk(2), global_logp.chunk(2)
    global_pairs = [pair(views[1], students[0]), pair(views[0], students[1])]
    local_pairs = [pair(view, crop) for crop in local_logp.chunk(n_local) for view in views]
    if normalization == "code":
        expected = (sum(global_pairs) / 10, sum(local_pairs) / 10)
    else:
        expected = (sum(global_pairs) / 2, sum(local_pairs) / 8)
    actual = losses.cross_view(targets, global_logp, local_logp, normalization)
    assert [x.item() for x in actual] == pytest.approx(expected, rel=1e-5)


def test_masked_patches_are_averaged_within_images_first() -> None:
    targets = torch.softmax(torch.randn(3, 4), -1)
    logp = torch.log_softmax(torch.randn(3, 4), -1)
    entropy = -(targets * logp).sum(-1)
    weights = torch.tensor([0.5, 0.5, 1.0])
    expected = ((entropy[0] + entropy[1]) / 2 + entropy[2]) / 4
    torch.testing.assert_close(losses.masked_patch(targets, logp, weights, 4), expected)


def test_koleo_of_points_on_a_circle() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -0.5]])
    assert losses.koleo(x).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    assert losses.koleo(x[:1]) == 0


def test_heads_of_a_narrow_network_scale_their_input() -> None:
    heads = MultiHead(12, [5, 7], hidden_dim=16, bottleneck_dim=8)
    x = torch.randn(3, 8)
    padded = torch.cat([x * 1.5, torch.zeros(3, 4)], dim=1)
    [narrow, full] = heads([x, padded])
    assert [y.shape for y in narrow] == [(3, 5), (3, 7)]
    for a, b in zip(narrow, full, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_prototypes_start_normalized() -> None:
    [head] = MultiHead(12, [5], hidden_dim=16, bottleneck_dim=8)
    assert head(torch.randn(50, 12)).abs().max() <= 1 + 1e-5
