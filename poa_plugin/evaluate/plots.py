"""Plots of a run, as PNG files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from poa_plugin.evaluate.curves import kind_of, smoothed, summands
from poa_plugin.evaluate.results import KnnRow

Target = Path | IO[bytes]
"""Where a plot goes: a file, or a buffer in memory."""

DPI = 120
MUTED = "#777777"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

MARKERS = "os^Dv"


def plot_losses(lines: Sequence[dict[str, Any]], file: Target) -> None:
    """Draw the loss and its terms over steps: faint as measured, strong smoothed."""
    lines = [line for line in lines if line["loss"] is not None]
    steps = np.array([line["step"] + 1 for line in lines])
    figure, (left, right) = new_figure(2)
    joins: dict[int, dict[str, str]] = defaultdict(dict)
    terms = summands(lines)
    kinds = sorted({kind_of(name) for name in terms})
    for name in sorted(terms):
        index, values = np.array(list(terms[name])), np.array(list(terms[name].values()))
        kind = kind_of(name)
        colour = COLOURS[kinds.index(kind) % len(COLOURS)]
        style = "--" if name.endswith("_elastic") else "-"
        _curve(right, steps[index], values, name.replace("_", " "), colour, style)
        if index[0] > 0:
            joins[index[0]].setdefault(kind.replace("_", " "), colour)
    _curve(left, steps, np.array([line["loss"] for line in lines]), "total", "black", "-", joins)
    for i, kinds_joining in joins.items():
        _mark_join(left, steps[i], kinds_joining, in_right_half=i > len(steps) / 2)
    left.set_title("Loss")
    right.set_title("Its summands")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
    right.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, file)


def plot_accuracy(rows: Sequence[KnnRow], file: Target) -> None:
    """Draw k-NN accuracy against parameters (the paper's Figure 1), a line for each width."""
    k = best_k(rows)
    shown = [row for row in rows if row.k == k]
    figure, [axes] = new_figure(1)
    unit, size = ("millions", 1e6) if max(row.params for row in shown) > 1e6 else ("thousands", 1e3)
    widths = sorted({row.width for row in shown if row.kind in ("trained", "untrained")})
    colours = width_colours(widths)
    for width in widths:
        for kind, style in (("trained", "o-"), ("untrained", "o:")):
            own = sorted(
                (row.params / size, row.top1)
                for row in shown
                if row.kind == kind and row.width == width
            )
            if own:
                axes.plot(
                    *np.array(own).T,
                    style,
                    color=colours[width],
                    label=f"width {width}" if kind == "trained" else None,
                    markerfacecolor=colours[width] if kind == "trained" else "white",
                    alpha=1.0 if kind == "trained" else 0.6,
                    markersize=5,
                    linewidth=1.2,
                )
    if any(row.kind == "untrained" for row in shown):
        axes.plot([], [], "o:", color=MUTED, markerfacecolor="white", label="before training")
    for row in shown:
        if row.kind == "reference":
            label = f"{row.network} (reference)"
            axes.plot(row.params / size, row.top1, "*", color="#d55e00", markersize=14, label=label)
        if row.kind == "pixels":
            axes.axhline(row.top1, linestyle="--", color=MUTED, linewidth=1, label="raw pixels")
    axes.set_xlabel(f"parameters ({unit})")
    axes.set_ylabel(f"k-NN top-1 (%), k = {k}")
    axes.set_title("Every network of one pre-training run")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, file)


def plot_runs_accuracy(runs: Mapping[str, Sequence[KnnRow]], file: Target) -> None:
    """Draw the trained networks of several runs in one picture, a colour and a marker for each run."""
    k = best_k([row for rows in runs.values() for row in rows])
    figure, [axes] = new_figure(1)
    for i, (name, rows) in enumerate(runs.items()):
        points = [
            (row.params / 1e6, row.top1) for row in rows if row.k == k and row.kind == "trained"
        ]
        x, y = np.array(points).reshape(-1, 2).T
        axes.plot(x, y, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=name)
    axes.set_xlabel("parameters (millions)")
    axes.set_ylabel(f"k-NN top-1 (%), k = {k}")
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, file)


def plot_runs_losses(runs: Mapping[str, Sequence[dict[str, Any]]], file: Target) -> None:
    """Draw the total loss of several runs over their steps."""
    figure, [axes] = new_figure(1)
    for i, (name, lines) in enumerate(runs.items()):
        steps, losses = np.array([(line["step"] + 1, line["loss"]) for line in lines]).T
        _curve(axes, steps, losses, name, COLOURS[i % len(COLOURS)])
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, file)


def plot_sampling(lines: Sequence[dict[str, Any]], file: Target) -> None:
    """Draw how often each sub-network was the elastic student: a width x depth map, or bars."""
    counts = Counter(name for line in lines for name in line.get("subnets", ()))
    figure, [axes] = new_figure(1)
    parsed = {name: re.fullmatch(r"w(\d+)_d(\d+)", name) for name in counts}
    grid = {(int(m[1]), int(m[2])): counts[name] for name, m in parsed.items() if m}
    if len(grid) == len(counts):
        _sampling_map(axes, figure, grid)
    else:
        names = sorted(counts, key=lambda name: -counts[name])
        axes.bar(range(len(names)), [counts[name] for name in names], color="#3b528b")
        axes.set_xlabel("sub-networks, most often drawn first")
        axes.set_ylabel("times drawn")
    axes.set_title("How often each network was the elastic student")
    save_figure(figure, file)


def best_k(rows: Sequence[KnnRow]) -> int:
    """Return the k to show: 20, or the nearest that was evaluated."""
    return min({row.k for row in rows}, key=lambda k: abs(k - 20))


def width_colours(widths: Sequence[int]) -> dict[int, Any]:
    """Return a colour for each width, from dark to light."""
    return dict(zip(widths, colormaps["viridis"](np.linspace(0, 0.92, len(widths))), strict=True))


def _sampling_map(axes: Axes, figure: Figure, counts: dict[tuple[int, int], int]) -> None:
    widths, depths = (sorted({key[i] for key in counts}) for i in (0, 1))
    table = np.array([[counts.get((w, d), 0) for w in widths] for d in depths])
    axes.grid(visible=False)
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis", vmin=0)
    axes.set_xticks(range(len(widths)), [str(w) for w in widths])
    axes.set_yticks(range(len(depths)), [str(d) for d in depths])
    axes.set_xlabel("width")
    axes.set_ylabel("depth")
    figure.colorbar(image, ax=axes, label="times drawn")
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if value < 0.6 * table.max() else "black"
        axes.text(column, row, str(value), ha="center", va="center", color=colour, fontsize=8)


def _curve(
    axes: Axes,
    x: Any,
    y: Any,
    label: str,
    colour: Any,
    style: str = "-",
    breaks: Iterable[int] = (),
) -> None:
    """Draw y faint as measured and strong smoothed, with no smoothing across the breaks."""
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    for part, smooth in zip(np.split(x, sorted(breaks)), smoothed(y, breaks), strict=True):
        axes.plot(part, smooth, style, color=colour, linewidth=1.8, label=label)
        label = "_"  # one entry in the legend


def _mark_join(axes: Axes, step: int, colours: dict[str, str], in_right_half: bool) -> None:
    """Mark the step from which further kinds of terms are part of the loss."""
    axes.axvline(step, color=next(iter(colours.values())), linestyle=":")
    words = f" {' and '.join(colours)} {'joins' if len(colours) == 1 else 'join'} "
    side = "right" if in_right_half else "left"
    axes.text(step, 0.98, words, transform=axes.get_xaxis_transform(), va="top", ha=side)


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


def save_figure(figure: Figure, file: Target) -> None:
    """Write a figure as a PNG."""
    figure.savefig(file, facecolor="white")
