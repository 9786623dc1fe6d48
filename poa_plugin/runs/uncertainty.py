"""How much of a difference between accuracies is luck with the test images."""

from __future__ import annotations

import math

CLEAR = 2.0
"""Standard errors of a difference, from which on it is not put down to luck."""

MARK = "≈"
"""Stands beside an accuracy that is not distinguishable from the best one."""


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


def alike(accuracy: float, best: float, n_test: int) -> bool:
    """Tell whether an accuracy is known to be not distinguishable from the best one; not if n_test is 0."""
    return n_test > 0 and not distinguishable(accuracy, best, n_test)


def lowest_alike(best: float, n_test: int) -> float:
    """Return the lowest accuracy in percent that is not distinguishable from `best`, 0 at the least."""
    low, high = -100.0 / n_test, best
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if distinguishable(middle, best, n_test) else (low, middle)
    return max(0.0, high)


def plus_minus(accuracy: float, n_test: int) -> str:
    """Return an accuracy with its standard error, such as `70.1 ±1.8`; without one if `n_test` is 0."""
    if not n_test:
        return f"{accuracy:.1f}"
    error = standard_error(accuracy, n_test)
    return f"{accuracy:.1f} ±{error:.1f}" if error >= 0.05 else f"{accuracy:.2f} ±{error:.2f}"


def milliseconds(latency: float, spread: float | None) -> str:
    """Return a latency and half of the distance between its quartiles, such as `5.9 ±0.3`."""
    text = f"{latency:.3g}"
    if spread is None:
        return text
    decimals = len(text.partition(".")[2]) if "e" not in text else 0
    half = f"{spread / 2:.{decimals}f}"
    return f"{text} ±{half if float(half) else f'{spread / 2:.1g}'}"


def legend(best: str, n_test: int) -> str:
    """Return the sentence that explains `±` and MARK where accuracies are shown beside a best one."""
    return (
        f"± is one standard error on {n_test:,} test images; {MARK} is not distinguishable from {best} "
        f"(the difference is below {CLEAR:g} standard errors)"
    )
