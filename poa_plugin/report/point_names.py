"""Names beside the points of a plot, which overlap neither each other nor the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from poa_plugin.report.figures import MUTED

AWAY = (14, 28, 44, 62)
"""Points (1/72 inch) from the mark to the name, the near ones first."""

STYLE: dict[str, Any] = {"fontsize": 9, "fontweight": "bold"}


def place_names(
    axes: Axes, names: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]
) -> None:
    """Write names beside their points where they hide the fewest others; leave out what has no place.

    Args:
        axes: of a figure on which all else is drawn.
        names: x, y and the text.
        points: x and y of what should not be hidden.
    """
    figure = axes.get_figure(root=True)
    if not names or figure is None:
        return
    figure.draw_without_rendering()  # gives the axes their final place
    pixels = axes.transData.transform(points)
    taken: list[Bbox] = []
    for x, y, text in names:
        width, height = _size(axes, text)
        place = None
        for offset in _offsets():
            box = _box(axes.transData.transform((x, y)), offset, width, height, figure.dpi / 72)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if not inside or any(box.overlaps(other) for other in taken):
                continue
            hidden = sum(box.padded(2).contains(*pixel) for pixel in pixels)
            cost = 3 * hidden + max(map(abs, offset)) / 10
            if place is None or cost < place[0]:
                place = (cost, offset, box)
        if place is not None:
            taken.append(place[2].padded(2))
            _write(axes, x, y, text, place[1])


def _write(axes: Axes, x: float, y: float, text: str, offset: tuple[int, int]) -> None:
    note = axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        ha=_alignment(offset),
        va="center",
        **STYLE,
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkB": 4},
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=5,
    )
    note.set_in_layout(False)


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Return the width and height of a text in pixels."""
    measured = axes.text(0, 0, text, **STYLE)
    box = measured.get_window_extent()
    measured.remove()
    return box.width, box.height


def _alignment(offset: tuple[int, int]) -> str:
    return "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"


def _box(point: Any, offset: tuple[int, int], width: float, height: float, scale: float) -> Bbox:
    """Return where a text of a size in pixels stands, at an offset in 1/72 inch from a point."""
    x, y = (at + scale * by for at, by in zip(point, offset, strict=True))
    left = x - {"left": 0.0, "right": 1.0, "center": 0.5}[_alignment(offset)] * width
    return Bbox.from_bounds(left, y - height / 2, width, height)


def _offsets() -> list[tuple[int, int]]:
    """Return places around a point: to the right and below first, where smaller networks are seldom good."""
    sides = ((1, -0.6), (0, -1), (1, 0.6), (-1, 0.6), (0, 1), (-1, -0.6))
    return [(round(away * dx), round(away * dy)) for away in AWAY for dx, dy in sides]
