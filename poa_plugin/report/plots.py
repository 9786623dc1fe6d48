"""Plots of a training, as PNG files: its losses, and how often each network was drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from poa_plugin.report.colors import RUNS, run_color
from poa_plugin.report.figures import (
    MUTED,
    Target,
    add_legend,
    new_figure,
    save_figure,
    shown_name,
    write_cells,
)
from poa_plugin.runs.curves import FROM_THE_START, Curve
from poa_plugin.runs.record import RunRecord


def plot_losses(record: RunRecord, file: Target) -> None:
    """Draw a run's loss and its terms over steps: faint as measured, strong smoothed.

    Where a term joins, a line marks the step, and the sum of the other terms is drawn, too. Ticks at the
    bottom are steps that were skipped.
    """
    losses = record.losses
    if losses is None:
        raise ValueError("the run has no losses")
    figure, (left, right) = new_figure(2)
    kinds = sorted({curve.kind for curve in losses.terms})
    for curve in losses.terms:
        style = "--" if curve.elastic else "-"
        draw_curve(right, curve, shown_name(curve.name), run_color(kinds.index(curve.kind)), style)
    draw_curve(left, losses.total, "total", "black")
    if losses.from_the_start:
        draw_curve(left, losses.from_the_start, FROM_THE_START, MUTED, "--")
    for i, (step, names) in enumerate(losses.joins):
        _mark_join(left, step, names, i)
    n_skipped = _mark_skipped(left, record, RUNS[1])
    if n_skipped:
        left.plot([], [], "|", color=RUNS[1], label=f"{n_skipped:,} skipped")
    if losses.from_the_start or n_skipped:
        left.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.92))
    left.set_title("Loss")
    right.set_title("Its terms")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
    add_legend(right)
    save_figure(figure, file)


def plot_runs_losses(records: Sequence[RunRecord], file: Target) -> None:
    """Draw the total loss of several runs over their steps; each has its color on the page, too."""
    figure, [axes] = new_figure(1)
    for i, record in enumerate(records):
        n_skipped = _mark_skipped(axes, record, run_color(i), i)
        name = shown_name(record.name) + f" ({n_skipped:,} skipped)" * bool(n_skipped)
        losses = record.losses
        if losses is not None:
            style = "-" if i < len(RUNS) else "--"
            draw_curve(axes, losses.total, name, run_color(i), style)
            for step, _ in losses.joins:
                axes.axvline(step, color=run_color(i), linestyle=":", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    add_legend(axes)
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
    write_cells(axes, image, table, str)


def draw_curve(axes: Axes, curve: Curve, label: str, color: str, style: str = "-") -> None:
    """Draw a curve faint as measured and strong smoothed, in parts between its breaks.

    A point that has no neighbor to be connected with is drawn as a dot.
    """
    axes.plot(curve.steps, curve.measured, color=color, alpha=0.3, linewidth=1)
    parts = (np.split(column, curve.breaks) for column in (curve.steps, curve.smooth))
    for x, y in zip(*parts, strict=True):
        axes.plot(x, y, style, color=color, linewidth=1.8, label=label)
        label = "_"  # one entry in the legend
        finite = np.concatenate([[False], np.isfinite(y), [False]])
        alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
        axes.plot(x[alone], y[alone], "o", color=color, markersize=5)


def _mark_join(axes: Axes, step: int, names: Sequence[str], row: int) -> None:
    """Mark the step from which further kinds of terms are part of the loss; names of several in rows."""
    axes.axvline(step, color=MUTED, linestyle=":")
    text = f" {shown_name(' and '.join(names))} {'joins' if len(names) == 1 else 'join'} "
    low, high = axes.get_xlim()
    side = "right" if step > (low + high) / 2 else "left"
    axes.text(
        step,
        0.98 - 0.06 * (row % 6),
        text,
        transform=axes.get_xaxis_transform(),
        va="top",
        ha=side,
    )


def _mark_skipped(axes: Axes, record: RunRecord, color: str, row: int = 0) -> int:
    """Mark steps that were skipped by ticks at the bottom, those of several runs in rows; return how many."""
    low = 0.025 * row
    for first, last, _ in record.skipped_ranges:
        axes.axvspan(first - 0.5, last + 0.5, low, low + 0.02, color=color)
    return sum(count for _, _, count in record.skipped_ranges)
