"""What an evaluation protocol is: features in, numbers out. Each has a file, and a name in `PROTOCOLS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Score(NamedTuple):
    """A number, and its standard error in the same unit; None where it has none."""

    value: float
    standard_error: float | None


class EvaluationProtocol(Protocol):
    """A protocol for one pair of data sets, built as `PROTOCOLS.get(name)(train, test, **settings)`.

    Building it raises a `UserError` where the data sets or the settings do not fit, before any features are
    taken. Its `settings` have plain values, with defaults for all.

    Attributes:
        name: as registered.
        conditions: JSON values by name that decide every number, beside the images.
        phrase: the same for a reader, such as `temperature 0.07`.
        metrics: what it measures, such as `top1_k20`.
    """

    name: str
    conditions: Mapping[str, Any]
    phrase: str
    metrics: Sequence[str]

    def __call__(
        self, train: Tensor, test: Tensor, device: torch.device, memory: int
    ) -> Mapping[str, Score]:
        """Return a score for each metric.

        Args:
            train, test: (N, D) and (M, D) features of the data sets' images, in half precision.
            device: where to compute.
            memory: bytes that it may take on the CPU.
        """
        ...
