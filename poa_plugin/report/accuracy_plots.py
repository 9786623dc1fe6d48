"""Accuracy against the size of networks, as PNG files: points, Pareto front, and what is uncertain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from poa_plugin.report.best import best_of
from poa_plugin.report.colors import run_color, width_colors
from poa_plugin.report.figures import (
    MARKERS,
    MUTED,
    Target,
    add_legend,
    new_figure,
    save_figure,
    shown_name,
)
from poa_plugin.report.point_names import place_names
from poa_plugin.runs.entries import OTHER, SIZES, Entry, first_k
from poa_plugin.runs.front import evaluated, pareto_front
from poa_plugin.runs.record import RunRecord
from poa_plugin.runs.uncertainty import standard_error
from poa_plugin.sizes import short

AXES = {
    "params": "parameters",
    "flops": "FLOPs (multiply-adds of one image)",
    "latency": "latency of one image (ms)",
}
PLACES: dict[str, Callable[[Entry], float | None]] = {**SIZES, "latency": lambda e: e.latency_ms}
"""Where a point is drawn: unlike on a front, also by a latency that is not reliable."""

CORNERS = ("smallest", "intact")
"""Aliases that every space has; the others are sizes with names of their own."""

MOST_BANDS = 3
"""Runs whose best network's uncertainty is shaded; more on top of each other say nothing."""

FRONT, STAR = "#222222", "#d55e00"


def plot_accuracy(record: RunRecord, file: Target) -> None:
    """Draw accuracy against parameters (the paper's Figure 1), as the page's first view shows it."""
    k = _shown_k([record])
    figure, [axes] = new_figure(1)
    entries = [entry for entry in evaluated(record.entries, k) if entry.kind != OTHER]
    trained = [entry for entry in entries if entry.kind == "trained"]
    draw_accuracy(axes, trained, "params", k)
    before = [
        (entry.params, entry.before[k]) for entry in trained if entry.params and k in entry.before
    ]
    before += [
        (entry.params, entry.top1[k])
        for entry in entries
        if entry.kind == "untrained" and entry.params
    ]
    if before:
        x, y = np.array(before).T
        axes.plot(x, y, "o", color=MUTED, mfc="white", ms=3.5, zorder=1, label="before training")
    for entry in entries:
        if entry.kind == "reference" and entry.params:
            label = f"{shown_name(entry.network)} (reference)"
            axes.plot(entry.params, entry.top1[k], "*", color=STAR, markersize=13, label=label)
        elif entry.kind in ("pixels", "reference"):
            label = "raw pixels" if entry.kind == "pixels" else shown_name(entry.network)
            axes.axhline(entry.top1[k], linestyle="--", color=MUTED, linewidth=1, label=label)
    _logarithmic(axes, [entry.params for entry in entries if entry.params])
    axes.set_xlabel("parameters")
    axes.set_ylabel(f"k-NN top-1 (%), k = {k}")
    axes.set_title("Every network of one pre-training run")
    add_legend(axes)
    name_points(axes, trained, "params", k)
    save_figure(figure, file)


def plot_runs_accuracy(records: Sequence[RunRecord], file: Target) -> None:
    """Draw the trained networks of several runs in one picture, a color and a marker for each run."""
    k = _shown_k(records)
    figure, [axes] = new_figure(1)
    sizes: list[float] = []
    for i, record in enumerate(records):
        trained = [entry for entry in evaluated(record.entries, k) if entry.kind == "trained"]
        placed = [entry for entry in trained if entry.params]
        if not placed:
            continue
        sizes += [entry.params or 0 for entry in placed]
        points = np.array([(entry.params, entry.top1[k]) for entry in placed]).T
        marker, color = MARKERS[i % len(MARKERS)], run_color(i)
        dot = 4.5 if len(placed) < 200 else 3
        axes.plot(*points, marker, color=color, markersize=dot, label=shown_name(record.name))
        draw_front(axes, placed, "params", k, color)
        if len(records) <= MOST_BANDS:
            draw_band(axes, trained, k, color)
    _logarithmic(axes, sizes)
    axes.set_xlabel("parameters")
    axes.set_ylabel(f"k-NN top-1 (%), k = {k}")
    add_legend(axes)
    save_figure(figure, file)


def draw_accuracy(axes: Axes, entries: Sequence[Entry], key: str, k: int) -> None:
    """Draw the trained networks of one run: points colored by width, Pareto front, uncertainty.

    Args:
        axes: where.
        entries: with an accuracy at k.
        key: of AXES.
        k: neighbors.
    """
    place = PLACES[key]
    placed = [entry for entry in entries if place(entry)]
    widths = sorted({entry.width or 0 for entry in placed})
    colors = dict(zip(widths, width_colors(len(widths)), strict=True))
    dot = 30 if len(placed) < 60 else 16
    sure = [entry for entry in placed if SIZES[key](entry)]
    for width, color in colors.items():
        points = [(place(entry), entry.top1[k]) for entry in sure if (entry.width or 0) == width]
        label = f"width {width}" if width else "other"
        x, y = np.array(points).reshape(-1, 2).T
        axes.scatter(x, y, s=dot, color=color, label=label, zorder=3)
    rest = [entry for entry in placed if not SIZES[key](entry)]
    if rest:
        x, y = np.array([(place(entry), entry.top1[k]) for entry in rest]).T
        edges = [colors[entry.width or 0] for entry in rest]
        label = "unreliable latency"
        axes.scatter(x, y, s=dot, facecolors="none", edgecolors=edges, label=label, zorder=3)
    draw_band(axes, entries, k, FRONT, "not distinguishable\nfrom the best")
    draw_front(axes, entries, key, k, FRONT, "Pareto front")
    _logarithmic(axes, [place(entry) or 0 for entry in placed])
    axes.margins(y=0.12)


def draw_front(
    axes: Axes, entries: Sequence[Entry], key: str, k: int, color: str, label: str | None = None
) -> None:
    """Draw the Pareto front as steps, with bars of a standard error either side where it is known."""
    front = pareto_front(entries, SIZES[key], k)
    if not front:
        return
    x, y = np.array([(SIZES[key](entry), entry.top1[k]) for entry in front]).T
    end = max(place for place in map(PLACES[key], entries) if place)
    x_steps, y_steps = np.append(x, end), np.append(y, y[-1])
    axes.plot(x_steps, y_steps, drawstyle="steps-post", color=color, lw=1.1, zorder=2, label=label)
    if all(k in entry.n_test for entry in front):
        error = np.array([standard_error(entry.top1[k], entry.n_test[k]) for entry in front])
        errors = [np.minimum(error, y), np.minimum(error, 100 - y)]
        axes.errorbar(x, y, errors, fmt="none", ecolor=color, elinewidth=0.8, alpha=0.7, zorder=2)


def draw_band(
    axes: Axes, entries: Sequence[Entry], k: int, color: str, label: str | None = None
) -> None:
    """Shade the accuracies that are not distinguishable from the best one, where that is known."""
    best = best_of(entries, k)
    if best and best.lowest is not None:
        axes.axhspan(best.lowest, best.top1, color=color, alpha=0.08, lw=0, zorder=0, label=label)


def name_points(axes: Axes, entries: Sequence[Entry], key: str, k: int) -> None:
    """Mark and name the networks whose sizes have names, such as `small`. Call it when all is drawn."""
    named = [entry for entry in entries if own_names(entry) and PLACES[key](entry)]
    texts = []
    for entry in named:
        x, y = PLACES[key](entry) or 0, entry.top1[k]
        axes.scatter(x, y, s=90, marker="*", color=STAR, edgecolors="white", zorder=4)
        texts.append((x, y, shown_name(", ".join(own_names(entry)))))
    others = [(PLACES[key](entry) or 0, entry.top1[k]) for entry in entries if PLACES[key](entry)]
    place_names(axes, texts, others)


def own_names(entry: Entry) -> list[str]:
    """Return the names that the sizes of a family have beside `w384_d12`, such as `small`."""
    return [name for name in entry.aliases if name not in CORNERS]


def _shown_k(records: Sequence[RunRecord]) -> int:
    k = first_k(entry for record in records for entry in record.entries)
    if k is None:
        raise ValueError("nothing was evaluated")
    return k


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Scale the x axis by factors, with ticks that read 20k, 50k, 100k."""
    if not values:
        return
    low, high = min(values), max(values)
    margin = (high / low) ** 0.06 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    steps = (1, 2, 5) if high / low < 100 else (1, 3)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    axes.tick_params(colors=MUTED, labelcolor="black")


def _tick(value: float, _: Any) -> str:
    return short(round(value)) if value >= 1000 else f"{value:g}"
