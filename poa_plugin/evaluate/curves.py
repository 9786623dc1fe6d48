"""A run's losses over steps: the total and its summands, as measured and smoothed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def summands(lines: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
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
    """Return the mean over `window` points either side, over fewer at the ends."""
    ones = np.ones(2 * min(window, (len(y) - 1) // 2) + 1)
    return np.convolve(y, ones, mode="same") / np.convolve(np.ones(len(y)), ones, mode="same")
