"""The nearest of many vectors by cosine, the same ones on every device and in chunks of any size.

Cosines are compared in double precision, rounded: the last bits of a matrix product depend on its shape, and
would decide between neighbors that are equally near, such as copies of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITIES_AT_A_TIME = 2**26
"""Bound on the similarities held at once (half a gibibyte), whatever the number of vectors."""

DECIMALS = 10
"""To which cosines are rounded."""

ROUNDED = 2.0**-24
"""Relative error of rounding to single precision."""


class Search(Protocol):
    """The k nearest of N vectors, given at construction."""

    step: int

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and indices of the nearest, (B, k) each, the nearest first, on the CPU.

        Args:
            queries: (B, D), of any length; at most `step` of them.
        """
        ...


def build_search(
    vectors: Tensor,
    ks: Sequence[int],
    device: torch.device,
    chunk: int,
    memory: int | None = None,
) -> Search:
    """Return the search that suits a device: `ExactSearch`, or on a GPU that holds the vectors `FastSearch`.

    Args:
        vectors: (N, D), of any length.
        ks: numbers of neighbors; the largest is what is found.
        device: where to compute.
        chunk: most queries at a time.
        memory: bytes on the CPU: half for vectors in double precision, half for cosines. None: no bound
            but `SIMILARITIES_AT_A_TIME`.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if vectors.nbytes + FastSearch.workspace <= 0.8 * free:
            return FastSearch(vectors.to(device), ks, chunk)
    return ExactSearch(vectors, ks, chunk, memory)


class ExactSearch:
    """All cosines in double precision; see `build_search`."""

    def __init__(
        self, vectors: Tensor, ks: Sequence[int], chunk: int, memory: int | None = None
    ) -> None:
        self.vectors, self.k = vectors, max(ks)
        n, width = vectors.shape
        similarities, self.rows = SIMILARITIES_AT_A_TIME, n
        if memory is not None:
            similarities = min(similarities, memory // 2 // 16)
            self.rows = min(n, max(1, memory // 2 // (16 * width)))
        self.step = max(1, min(chunk, similarities // n))
        self._unit = unit(vectors) if self.rows == n else None

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search.nearest`."""
        return self._cosines(unit(queries)).topk(self.k, dim=1)

    def _cosines(self, queries: Tensor) -> Tensor:
        if self._unit is not None:
            return (queries @ self._unit.T).round_(decimals=DECIMALS)
        return rounded_cosines(queries, self.vectors, self.rows)


class FastSearch:
    """Candidates in single precision, decided in double precision.

    Whether the candidates are certain to hold the nearest is checked for each query against the largest error
    that a product in single precision can have. Queries of which it is not certain, and those with ties at
    one of the ks, go through all vectors in double precision, and are decided on the CPU like the others.

    Args:
        vectors: (N, D) on the device.
        ks: numbers of neighbors.
        chunk: most queries at a time.
    """

    workspace = 4 * 2**30
    """Bytes that a search needs at most beside the vectors."""

    def __init__(self, vectors: Tensor, ks: Sequence[int], chunk: int) -> None:
        self.vectors, self.ks, self.k = vectors, sorted(set(ks)), max(ks)
        self.step = max(1, min(chunk, 1024))
        n, width = vectors.shape
        self.n_candidates = min(n, 2 * self.k + 64)
        self.rows = max(self.n_candidates, 2**25 // max(width, 1024))
        self.error = (width + 8) * ROUNDED
        self.n_decided_in_full = 0

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search.nearest`."""
        queries = unit(queries.to(self.vectors.device))
        floor, candidates = self._candidates(queries.float())
        cosines, order = self._exact(queries, candidates).sort(dim=1, descending=True)
        nearest = candidates.gather(1, order)
        certain = cosines[:, self.k - 1] > floor + self.error
        for k in self.ks:
            if k < cosines.shape[1]:
                certain &= cosines[:, k - 1] > cosines[:, k]
        nearest_k = cosines[:, : self.k].cpu(), nearest[:, : self.k].cpu()
        rest = (~certain).nonzero().flatten()
        self.n_decided_in_full += len(rest)
        for rows in rest.split(max(1, SIMILARITIES_AT_A_TIME // len(self.vectors))):
            full = rounded_cosines(queries[rows], self.vectors, self.rows)
            for target, decided in zip(nearest_k, full.cpu().topk(self.k, dim=1), strict=True):
                target[rows.cpu()] = decided
        return nearest_k

    def _candidates(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest in single precision, (B, C), and a bound (B,) on the cosines of all others."""
        best = queries.new_empty(len(queries), 0)
        indices = best.long()
        with single_precision_products():
            for start, block in blocks(self.vectors, self.rows):
                n_best = min(self.n_candidates, len(block))
                cosines, places = (queries @ unit(block).float().T).topk(n_best, dim=1)
                best, indices = (
                    torch.cat([best, cosines], 1),
                    torch.cat([indices, places + start], 1),
                )
                best, kept = best.topk(min(self.n_candidates, best.shape[1]), dim=1)
                indices = indices.gather(1, kept)
        everything = self.n_candidates == len(self.vectors)
        floor = best[:, -1].double()
        return floor.fill_(-torch.inf) if everything else floor, indices

    def _exact(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Return the rounded cosines (B, C) of queries (B, D) at unit length and their candidates."""
        each = candidates.shape[1] * queries.shape[1]
        cosines = []
        for start in range(0, len(queries), max(1, 2**25 // each)):
            rows = slice(start, start + max(1, 2**25 // each))
            vectors = unit(self.vectors[candidates[rows]])  # (b, C, D)
            cosines.append((vectors @ queries[rows, :, None]).squeeze(2))
        return torch.cat(cosines).round_(decimals=DECIMALS)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) at unit length in double precision."""
    return F.normalize(vectors.double(), dim=-1)


def rounded_cosines(queries: Tensor, vectors: Tensor, rows: int) -> Tensor:
    """Return the cosines (B, N) of queries at unit length, so many vectors at a time."""
    cosines = queries.new_empty(len(queries), len(vectors))
    for start, block in blocks(vectors, rows):
        cosines[:, start : start + len(block)] = queries @ unit(block).T
    return cosines.round_(decimals=DECIMALS)


def blocks(vectors: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the vectors so many at a time, each block with the index of its first."""
    for start in range(0, len(vectors), rows):
        yield start, vectors[start : start + rows]


@contextmanager
def single_precision_products() -> Iterator[None]:
    """Have a GPU multiply in single precision, and not in TF32, for a while."""
    matmul = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before = getattr(matmul, name)
    setattr(matmul, name, "ieee" if name == "fp32_precision" else False)
    try:
        yield
    finally:
        setattr(matmul, name, before)
