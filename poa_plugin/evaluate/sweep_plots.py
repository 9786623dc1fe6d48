"""Plots of a sweep, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from poa_plugin.evaluate.pick import pareto_front, shown_k
from poa_plugin.evaluate.plots import MUTED, new_figure, save_figure, width_colours
from poa_plugin.evaluate.results import short
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep

PARETO, MAP = "sweep_pareto.png", "sweep_map.png"
CORNERS = ("smallest", "intact")
"""Aliases that every space has; the others are sizes with names of their own."""


def plot_sweep(sweep: Sweep, folder: Path) -> list[Path]:
    """Draw `sweep_pareto.png` and `sweep_map.png` into a folder; return the files."""
    files = [folder / PARETO, folder / MAP]
    plot_pareto(sweep, files[0])
    plot_map(sweep, files[1])
    return files


def plot_pareto(sweep: Sweep, file: Path) -> None:
    """Draw accuracy against parameters, FLOPs and latency, as in the paper's Figure 1.

    Every network is a point, coloured by its width; latency is left out unless all have one.
    """
    k = shown_k(sweep)
    networks = [own for own in sweep.networks if k in own.top1]
    panels: list[tuple[str, Callable[[NetworkResult], float]]] = [
        ("parameters", lambda own: own.params),
        ("FLOPs (multiply-adds of one image)", lambda own: own.flops),
    ]
    if all(own.latency_ms is not None for own in networks):
        panels.append(("latency of one image (ms)", lambda own: own.latency_ms or 0.0))
    figure, all_axes = new_figure(len(panels), width=1.5 + 4.1 * len(panels), height=4.4)
    colours = width_colours(sorted({own.width for own in networks}))
    for axes, (label, size) in zip(all_axes, panels, strict=True):
        for width, colour in colours.items():
            own = [network for network in networks if network.width == width]
            x, y = np.array([(size(network), network.top1[k]) for network in own]).T
            dot = 30 if len(networks) < 60 else 16
            axes.scatter(x, y, s=dot, color=colour, label=f"width {width}", linewidths=0)
        front = pareto_front(networks, size, k)
        line = np.array([(size(network), network.top1[k]) for network in front]).T
        axes.plot(*line, color="#d55e00", linewidth=1.2, zorder=1, label="Pareto front")
        _logarithmic(axes, [size(network) for network in networks])
        axes.margins(y=0.12)
        _name_sizes(axes, networks, size, k)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(f"k-NN top-1 (%), k = {k}")
    all_axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(f"{len(networks)} networks of one pre-training run")
    save_figure(figure, file)


def plot_map(sweep: Sweep, file: Path) -> None:
    """Draw accuracy over width and depth; where networks share both, the best of them."""
    k = shown_k(sweep)
    best: dict[tuple[int, int], float] = {}
    networks = [own for own in sweep.networks if k in own.top1]
    for own in networks:
        cell = (own.depth, own.width)
        best[cell] = max(best.get(cell, 0.0), own.top1[k])
    depths, widths = (sorted({cell[i] for cell in best}) for i in (0, 1))
    table = np.array([[best.get((d, w), np.nan) for w in widths] for d in depths])
    width, height = max(6.0, 2.2 + 0.55 * len(widths)), max(4.2, 1.4 + 0.26 * len(depths))
    figure, [axes] = new_figure(1, width, height)
    axes.grid(visible=False)
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(widths)), [str(w) for w in widths])
    axes.set_yticks(range(len(depths)), [str(d) for d in depths])
    axes.set_xlabel("width")
    axes.set_ylabel("depth" if len(best) == len(networks) else "depth, all stages together")
    figure.colorbar(image, ax=axes, label=f"k-NN top-1 (%), k = {k}")
    middle = np.nanmin(table) + 0.6 * np.ptp(table[np.isfinite(table)])
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            text = f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    shared = len(networks) - len(best)
    axes.set_title(
        "Best of the networks of each width and depth" if shared else "Accuracy by width and depth"
    )
    save_figure(figure, file)


def own_names(network: NetworkResult) -> list[str]:
    """Return the names that the sizes of a family have beside `w384_d12`, such as `small`."""
    return [name for name in network.aliases if name not in CORNERS]


def _name_sizes(
    axes: Axes, networks: Sequence[NetworkResult], size: Callable[[NetworkResult], float], k: int
) -> None:
    """Mark the networks whose sizes have names."""
    for own in networks:
        names = own_names(own)
        if not names:
            continue
        x, y = size(own), own.top1[k]
        axes.scatter(x, y, s=90, marker="*", color="#d55e00", edgecolors="white", zorder=4)
        low, high = axes.get_xlim()
        at_the_right = x > low * (high / low) ** 0.75
        axes.annotate(  # below the point, where smaller networks are seldom as accurate
            ", ".join(names),
            (x, y),
            xytext=(6, -30) if at_the_right else (24, -13),
            textcoords="offset points",
            ha="right" if at_the_right else "left",
            va="center",
            fontsize=9,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkB": 4},
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Scale the x axis by factors, with ticks that read 20k, 50k, 100k."""
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
