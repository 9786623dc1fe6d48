"""What all ranks know of a step after its backward pass: the one exchange, and the one wait for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poa_plugin import ranks


class Requests(NamedTuple):
    """What ranks ask of one another in a step.

    Attributes:
        signal: that asks the run to end, the largest of all ranks'; 0 if none does.
        out_of_time: whether `train.max_minutes` are over.
        bad_images: how many images of the step could not be used.
    """

    signal: int = 0
    out_of_time: bool = False
    bad_images: int = 0


class Step(NamedTuple):
    """The outcome of a step, over all ranks.

    Attributes:
        terms: loss terms; `by_head`: by head, but for those that heads do not compute.
        norms: of the gradients, before clipping.
        non_finite: names of the values that were not finite; if there are any, the step was skipped. A term of
            one of several ranks is named with the rank.
        requests: what the ranks ask of one another.
        scaler: the state of the fp16 gradient scaler before a skipped step.
    """

    terms: dict[str, float]
    by_head: dict[str, list[float]]
    norms: dict[str, float]
    non_finite: list[str]
    requests: Requests
    scaler: dict[str, Any] | None = None


def agree(
    terms: Mapping[str, Tensor],
    by_head: Mapping[str, Tensor],
    norms: Mapping[str, Tensor],
    requests: Requests = Requests(),  # noqa: B008 (a constant)
) -> Step:
    """Exchange a step's numbers between ranks; all get the same.

    Args:
        terms: this rank's part of the loss terms, scalars; the same names on all ranks.
        by_head: the same, (heads,) each.
        norms: of the reduced gradients, scalars that all ranks have in common.
        requests: of this rank.
    """
    parts = [x.detach().flatten() for group in (terms, by_head, norms) for x in group.values()]
    asked = torch.tensor(requests, dtype=torch.float64).to(parts[0].device, non_blocking=True)
    numbers = torch.cat([*(part.to(torch.float64) for part in parts), asked])
    of_ranks = [iter(row) for row in ranks.gathered(numbers[None]).tolist()]

    def columns(count: int) -> list[list[float]]:
        return [[next(row) for row in of_ranks] for _ in range(count)]

    of_terms = dict(zip(terms, columns(len(terms)), strict=True))
    of_heads = {name: list(map(sum, columns(len(heads)))) for name, heads in by_head.items()}
    of_gradients = {
        name: column[0] for name, column in zip(norms, columns(len(norms)), strict=True)
    }
    signals, out_of_time, bad_images = columns(len(requests))
    non_finite = [_name(name, column) for name, column in of_terms.items() if _bad(column)]
    return Step(
        {name: sum(column) for name, column in of_terms.items()},
        of_heads,
        of_gradients,
        non_finite + [name for name, norm in of_gradients.items() if not math.isfinite(norm)],
        Requests(int(max(signals)), any(out_of_time), int(sum(bad_images))),
    )


def _bad(column: list[float]) -> list[int]:
    """Return the ranks whose number is not finite."""
    return [rank for rank, number in enumerate(column) if not math.isfinite(number)]


def _name(term: str, column: list[float]) -> str:
    numbers = _bad(column)
    if len(column) == 1:
        return term
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{term} on rank{'s' * (len(numbers) > 1)} {shown}"
