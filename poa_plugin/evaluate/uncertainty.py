"""How much of a difference between accuracies is luck with the test images."""

from __future__ import annotations

import math

CLEAR = 2.0
"""Standard errors of a difference, from which on it is not put down to luck."""


def standard_error(accuracy: float, n_test: int) -> float:
    """Return the standard error of an accuracy in percent, in points: sqrt(p (1 - p) / n).

    It says how far the accuracy would move with other test images of the same kind. p is taken to be at
    least half an image away from 0 and 1: that all of a few images are classified rightly does not make
    an accuracy certain.

    Args:
        accuracy: in percent.
        n_test: test images, at least one.
    """
    margin = 0.5 / n_test
    p = min(max(accuracy / 100, margin), 1 - margin)
    return 100 * math.sqrt(p * (1 - p) / n_test)


def distinguishable(a: float, b: float, n_test: int) -> bool:
    """Tell whether two accuracies in percent on `n_test` images differ by more than luck would explain.

    That is by more than two standard errors of their difference, as if each had test images of its own;
    networks that share them differ by less luck, so that this errs on the side of not telling apart.
    """
    error = math.hypot(standard_error(a, n_test), standard_error(b, n_test))
    return abs(a - b) > CLEAR * error
