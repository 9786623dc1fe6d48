"""Class numbers of images in archives."""

from __future__ import annotations

from typing import Any

import numpy as np

from poa_plugin.data.names import Integers
from poa_plugin.errors import UserError

MOST_CLASSES = 1_000_000
Array = np.ndarray[Any, np.dtype[np.int64]]


def labels_and_classes(
    labels: Array, path: str | None, what: str
) -> tuple[Integers | None, list[str]]:
    """Return labels and the names of classes, which are numbers; nothing where no image has a label."""
    without = int((labels < 0).sum())
    if without == len(labels):
        return None, []
    if without:
        raise UserError(
            f"{without} of {len(labels)} images of '{path}' have no {what}: give all of them one, or none."
        )
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"'{path}' has a class of number {labels.max()}: the most is {MOST_CLASSES - 1}."
        )
    return Integers(labels), [str(i) for i in range(int(labels.max()) + 1)]
