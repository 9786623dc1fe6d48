"""A run's losses over steps: the total and its terms, as measured and smoothed, and where terms join."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_POINTS = 400
"""Of a curve that is drawn; of a longer one, the highest and the lowest of each part are."""

FROM_THE_START = "terms from the start"


@dataclass(frozen=True)
class Curve:
    """A number over steps, thinned for drawing.

    Attributes:
        name: what it is.
        steps: counted from 1, increasing.
        measured, smooth: the number at each step and its running mean; NaN where it is not finite.
        breaks: indices at which a new part begins, across which nothing is smoothed.
        kind: a loss term's name without its student.
        elastic: whether the term is the elastic student's.
    """

    name: str
    steps: Any
    measured: Any
    smooth: Any
    breaks: Sequence[int] = ()
    kind: str = ""
    elastic: bool = False


@dataclass(frozen=True)
class Losses:
    """The curves of a run.

    Attributes:
        total: the loss.
        terms: its terms by name, global and local crops added up.
        from_the_start: the sum of the terms that are there from the first line on, where others join; where
            none does, None.
        joins: the step from which further kinds of terms are a part of the loss, and their names.
    """

    total: Curve
    terms: Sequence[Curve]
    from_the_start: Curve | None
    joins: Sequence[tuple[int, Sequence[str]]]


def loss_curves(lines: Sequence[dict[str, Any]]) -> Losses | None:
    """Return the curves that the lines of a `metrics.jsonl` hold; None if no line has a loss.

    A term that joins adds to the total: the curve jumps without any of its terms getting worse.
    `from_the_start` shows that, as it leaves those terms out.
    """
    lines = [line for line in lines if line["loss"] is not None]
    if not lines:
        return None
    steps = np.array([line["step"] + 1 for line in lines])
    terms = loss_terms(lines)
    joined: dict[int, set[str]] = defaultdict(set)
    for name, values in terms.items():
        if min(values) > 0:
            joined[min(values)].add(kind_of(name).replace("_", " "))
    breaks = sorted(joined)
    total = _curve("total loss", steps, [line["loss"] for line in lines], breaks)
    start = None
    if joined:
        first = [values for values in terms.values() if min(values) == 0]
        sums = [sum(values.get(i, np.nan) for values in first) for i in range(len(lines))]
        start = _curve(FROM_THE_START, steps, sums) if first else None
    return Losses(
        total=total,
        terms=[_term(name, steps, terms[name]) for name in sorted(terms)],
        from_the_start=start,
        joins=[(int(steps[i]), sorted(joined[i])) for i in breaks],
    )


def loss_terms(lines: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Return each summand of the loss, by the index of the line; global and local crops are added up."""
    terms: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for i, line in enumerate(lines):
        for name, value in line["terms"].items():
            terms[name.removesuffix("_global").removesuffix("_local")][i] += value
    return dict(terms)


def kind_of(name: str) -> str:
    """Return a summand's name without the student that it is for."""
    return name.removesuffix("_elastic").removesuffix("_intact")


def smoothed(values: Any, breaks: Iterable[int] = ()) -> list[Any]:
    """Return the running means of the parts between the breaks, over a fiftieth of the points either side."""
    window = max(1, len(values) // 50)
    return [running_mean(part, window) for part in np.split(values, sorted(breaks))]


def running_mean(y: Any, window: int) -> Any:
    """Return the mean over `window` points either side, over fewer at the ends and around NaN."""
    finite = np.isfinite(y)
    ones = np.ones(2 * min(window, (len(y) - 1) // 2) + 1)
    counts = np.convolve(finite.astype(float), ones, mode="same")
    sums = np.convolve(np.where(finite, y, 0.0), ones, mode="same")
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def thinned(values: Any, breaks: Sequence[int] = ()) -> Any:
    """Return increasing indices of at most MAX_POINTS values or a few more, the extremes among them.

    The first and the last are kept, and the highest and the lowest of each of as many parts as fit; a
    break begins a new part.
    """
    if len(values) <= MAX_POINTS:
        return np.arange(len(values))
    kept = {0, len(values) - 1, *breaks, *(i - 1 for i in breaks)}
    for part in np.array_split(np.arange(len(values)), MAX_POINTS // 2 - 1):
        finite = part[np.isfinite(values[part])]
        if len(finite):
            kept |= {int(finite[np.argmin(values[finite])]), int(finite[np.argmax(values[finite])])}
        if len(finite) < len(part):
            kept.add(int(part[~np.isfinite(values[part])][0]))
    return np.array(sorted(kept))


def skipped_ranges(
    lines: Sequence[dict[str, Any]], skipped: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return where steps were skipped: the first and the last step of a range, from 1, and how many in it.

    Args:
        lines: of `metrics.jsonl`, which say how many steps were skipped since the line before.
        skipped: the steps in `skipped_steps.jsonl`, from 0; where they are fewer than the lines count, the
            lines are gone by.
    """
    counts = [(line["step"] + 1, int(line.get("skipped_steps", 0))) for line in lines]
    if sum(count for _, count in counts) <= len(skipped):
        return ranges([step + 1 for step in skipped])
    starts = [0, *(step for step, _ in counts)]
    return [
        (start + 1, step, count)
        for start, (step, count) in zip(starts, counts, strict=False)
        if count
    ]


def ranges(steps: Sequence[int], n_most: int = MAX_POINTS) -> list[tuple[int, int, int]]:
    """Return increasing steps as ranges: the first, the last, and how many of the steps lie within.

    Steps that follow each other are one range. Of very many ranges, those that are close to each other
    are joined, so that at most about `n_most` are left.
    """
    if not len(steps):
        return []
    joined: list[tuple[int, int, int]] = []
    for gap in (1, max(1, (steps[-1] - steps[0]) // n_most)):
        joined = [(steps[0], steps[0], 1)]
        for step in steps[1:]:
            first, last, count = joined[-1]
            if step - last <= gap:
                joined[-1] = (first, step, count + 1)
            else:
                joined.append((step, step, 1))
        if len(joined) <= n_most:
            break
    return joined


def _term(name: str, steps: Any, values: dict[int, float]) -> Curve:
    index = np.array(list(values))
    curve = _curve(name.replace("_", " "), steps[index], list(values.values()))
    return replace(curve, kind=kind_of(name), elastic=name.endswith("_elastic"))


def _curve(name: str, steps: Any, numbers: Any, breaks: Sequence[int] = ()) -> Curve:
    values = np.array(numbers, dtype=float)
    values[~np.isfinite(values)] = np.nan
    smooth = np.concatenate(smoothed(values, breaks))
    index = thinned(values, breaks)
    places = [int(place) for place in np.searchsorted(index, list(breaks))]
    return Curve(name, steps[index], values[index], smooth[index], places)
