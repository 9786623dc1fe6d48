"""Figures in the style of all plots, and names as they can be shown there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage

from poa_plugin.report.colors import text_on

Target = Path | IO[bytes]
"""Where a plot goes: a file, or a buffer in memory."""

DPI = 120
MUTED = "#6b6b6b"
MARKERS = "os^Dv"
LONGEST = 30
"""Characters of a name in a plot; the middle of a longer one is left out."""


def shown_name(name: str) -> str:
    """Return a name as a plot can show it: short, no formula, of characters that the font has."""
    if len(name) > LONGEST:
        name = f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"
    drawable = "".join(c if ord(c) in _characters() else "?" for c in name).replace("$", r"\$")
    # matplotlib hides names that begin with an underscore
    return f" {drawable}" if drawable.startswith("_") else drawable


@cache
def _characters() -> frozenset[int]:
    """Return the characters that the plots' font has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def new_figure(
    columns: int, width: float | None = None, height: float = 4.2
) -> tuple[Figure, list[Axes]]:
    """Return a figure of some inches with axes side by side, in the style of all plots."""
    size = (width or (9.5 if columns > 1 else 7.5), height)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, list(axes)


def add_legend(axes: Axes) -> None:
    """Write the legend to the right of the axes, if there is something to write."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def write_cells(axes: Axes, image: AxesImage, table: Any, text: Callable[[Any], str]) -> None:
    """Write the numbers of a map into its cells, black or white, whichever is read more easily."""
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            color = text_on(to_hex((red, green, blue)))
            axes.text(column, row, text(value), ha="center", va="center", color=color, fontsize=8)


def save_figure(figure: Figure, file: Target) -> None:
    """Write a figure as a PNG."""
    figure.savefig(file, facecolor="white")
