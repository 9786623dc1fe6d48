"""Colors of the page and the plots, which stand out against their background by 3:1 as WCAG 2 asks."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

RUNS = ("#0072b2", "#d55e00", "#009e73", "#b45a8d", "#b97f00", "#2f8fc4", "#55595e")
"""Of runs, and of loss terms: Okabe and Ito's, which color-blind readers can tell apart, darkened."""

RUNS_ON_DARK = ("#56a8e6", "#ef7d35", "#25c29a", "#dc94bd", "#e9ad2b", "#8fd0f5", "#c3c8cd")
ENDS, ENDS_ON_DARK = (0.0, 0.59), (0.37, 1.0)
"""The part of viridis that stands out on white, and on a dark page."""


def run_color(number: int) -> str:
    """Return the color of a run, or of a kind of loss term, on white."""
    return RUNS[number % len(RUNS)]


def width_colors(n_widths: int, dark: bool = False) -> list[str]:
    """Return a color for each width, from the smallest to the largest."""
    ends = ENDS_ON_DARK if dark else ENDS
    return [to_hex(color) for color in colormaps["viridis"](np.linspace(*ends, n_widths))]


def viridis(n_colors: int) -> list[str]:
    """Return viridis from end to end."""
    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 1, n_colors))]


def luminance(color: str) -> float:
    """Return the relative luminance of a color such as `#0072b2`, as WCAG 2 defines it, from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def text_on(color: str) -> str:
    """Return black or white, whichever is read more easily on a color: at least 4.5:1."""
    return "#ffffff" if luminance(color) < 0.179 else "#000000"
