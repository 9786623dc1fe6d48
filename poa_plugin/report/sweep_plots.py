"""Plots of a sweep, as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poa_plugin.errors import UserError
from poa_plugin.report.accuracy_plots import AXES, PLACES, draw_accuracy, name_points
from poa_plugin.report.figures import add_legend, new_figure, save_figure, write_cells
from poa_plugin.runs.entries import Series
from poa_plugin.runs.front import evaluated
from poa_plugin.runs.uncertainty import standard_error

PARETO, MAP = "sweep_pareto.png", "sweep_map.png"


def plot_sweep(series: Series, folder: Path) -> list[Path]:
    """Draw `sweep_pareto.png` and `sweep_map.png` into a folder; return the files."""
    files = [folder / PARETO, folder / MAP]
    plot_pareto(series, files[0])
    plot_map(series, files[1])
    return files


def plot_pareto(series: Series, file: Path) -> None:
    """Draw accuracy against parameters, FLOPs and latency, as in the paper's Figure 1.

    Every network is a point, colored by its width. Latency is left out where no network has one; a
    latency that is not reliable is drawn hollow, and is on no Pareto front.
    """
    k = series.shown_k
    entries = evaluated(series.networks, k)
    panels = {key: label for key, label in AXES.items() if any(map(PLACES[key], entries))}
    if not entries or not panels:
        raise UserError("The sweep holds no accuracies to draw: run 'poa sweep' on the run again.")
    figure, all_axes = new_figure(len(panels), width=1.5 + 4.1 * len(panels), height=4.4)
    for axes, (key, label) in zip(all_axes, panels.items(), strict=True):
        draw_accuracy(axes, entries, key, k)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(f"k-NN top-1 (%), k = {k}")
    add_legend(all_axes[-1])
    figure.suptitle(f"{len(entries)} networks of one pre-training run")
    for axes, key in zip(all_axes, panels, strict=True):
        name_points(axes, entries, key, k)
    save_figure(figure, file)


def plot_map(series: Series, file: Path) -> None:
    """Draw accuracy over width and depth; where networks share both, the best of them."""
    k = series.shown_k
    best: dict[tuple[int, int], float] = {}
    networks = evaluated(series.networks, k)
    for entry in networks:
        cell = (entry.depth, entry.width)
        best[cell] = max(best.get(cell, 0.0), entry.top1[k])
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
    errors = [standard_error(e.top1[k], e.n_test[k]) for e in networks if k in e.n_test]
    uncertainty = f", each ±{max(errors):.1f} or less" if errors else ""
    figure.colorbar(image, ax=axes, label=f"k-NN top-1 (%), k = {k}{uncertainty}")
    write_cells(axes, image, table, lambda top1: f"{top1:.1f}")
    shared = len(networks) - len(best)
    axes.set_title(
        "Best of the networks of each width and depth" if shared else "Accuracy by width and depth"
    )
    save_figure(figure, file)
