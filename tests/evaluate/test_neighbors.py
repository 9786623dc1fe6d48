"""The search for neighbors: the same answers in single precision first, in blocks, and as it was before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from poa_plugin.evaluate import knn
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.neighbors import ExactSearch, FastSearch, build_search

KS = (1, 10, 20)


def as_before(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All cosines in double precision in one product, as this package has always compared them."""
    bank = F.normalize(vectors.double(), dim=1)
    cosines = (F.normalize(queries.double(), dim=1) @ bank.T).round_(decimals=10)
    return tuple(cosines.topk(k, dim=1))


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 96, generator=generator)
    centers = torch.randn(5, 96, generator=generator)
    clusters = centers[torch.arange(500) % 5] + 0.1 * points
    return {
        "noise": (points, points[:131] + 0.3 * torch.randn(131, 96, generator=generator)),
        "clusters": (clusters, clusters.flip(0)[:131]),
        "copies": (points[:50].repeat(10, 1), points[:131]),
        "collapsed": (points[:1].repeat(500, 1), points[:131]),
        "alike": (300 + points, 300 + points.flip(0)[:131]),
        "half": (F.normalize(points).half(), F.normalize(points[:131]).half()),
        "few": (points[:20], points[:131]),
        "zeros": (torch.cat([points[:30], torch.zeros(30, 96)]), points[:131]),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_every_search_gives_the_same_neighbors(name: str) -> None:
    vectors, queries = cases()[name]
    wanted = as_before(vectors, queries, 20)
    whole, blockwise = ExactSearch(vectors, KS, 1000), ExactSearch(vectors, KS, 1000, 200_000)
    fast = FastSearch(vectors, KS, 1000)
    fast.rows = max(fast.n_candidates, 64)
    assert blockwise.rows < len(vectors) or name in ("few", "zeros")
    for search in (whole, blockwise, fast):
        found = [search.nearest(part) for part in queries.split(search.step)]
        cosines, nearest = (torch.cat(parts) for parts in zip(*found, strict=True))
        assert torch.equal(cosines, wanted[0])
        for (
            k
        ) in KS:  # equally near ones may come in another order, where all of them are among the k
            both = nearest[:, :k].sort(dim=1)[0], wanted[1][:, :k].sort(dim=1)[0]
            assert torch.equal(*both), k
    in_full = {"noise": 0, "clusters": 0, "half": 0, "few": 0, "collapsed": 131}
    if name in in_full:
        assert fast.n_decided_in_full == in_full[name]


def test_accuracies_do_not_depend_on_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.randint(0, 8, (500,), generator=torch.Generator().manual_seed(1)).tolist()
    for vectors, queries in cases().values():
        arguments = (vectors, labels[: len(vectors)], queries, labels[:131], KS)
        plain = knn_accuracy(*arguments)
        assert knn_accuracy(*arguments, memory=100_000) == plain
        with monkeypatch.context() as patch:
            patch.setattr(knn, "build_search", lambda v, ks, *_: FastSearch(v, ks, 50))
            assert knn_accuracy(*arguments) == plain


def test_candidates_that_single_precision_cannot_tell_apart_are_decided_in_double() -> None:
    """The nearest differ by less than single precision tells, and there are more than the candidates."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(64, generator=generator, dtype=torch.float64)
    away = torch.randn(400, 64, generator=generator, dtype=torch.float64)
    vectors = base + 1e-5 * away
    fast = FastSearch(vectors, (5,), 10)
    found, wanted = fast.nearest(base[None]), as_before(vectors, base[None], 5)
    assert fast.n_decided_in_full == 1
    assert torch.equal(found[1].sort()[0], wanted[1].sort()[0])
    assert torch.equal(found[0], wanted[0])


def test_memory_bounds_what_is_held_at_once() -> None:
    """ImageNet's size: 1.28 million training features are not turned into double precision at once."""
    vectors = torch.zeros(1, 2048, dtype=torch.float16).expand(1_281_167, -1)
    search = ExactSearch(vectors, knn.KS, 1024, 2_000_000_000)
    assert search.step * len(vectors) * 16 <= 1_000_000_000
    assert search.rows * 2048 * 16 <= 1_000_000_000
    assert search.step >= 40
    chosen = build_search(vectors, knn.KS, torch.device("cpu"), 1024, 2_000_000_000)
    assert isinstance(chosen, ExactSearch)
