"""The whole path in minutes: train two networks side by side, extract, evaluate, draw.

POA's elastic network and a DINOv2-style network of the same intact size train at the same time, each
on half of the cores, for the same wall time; each does as many steps as fit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from poa_plugin import step_time
from poa_plugin.children import run_side_by_side
from poa_plugin.config.load import load_config
from poa_plugin.config.values import path_override
from poa_plugin.device import available_cores
from poa_plugin.evaluate.knn import check_votes
from poa_plugin.evaluate.run import EvaluationOptions, evaluate_run
from poa_plugin.evaluate.splits import labeled_splits
from poa_plugin.extraction.write import write_all_networks
from poa_plugin.report.tables import results_table
from poa_plugin.report.write import write_report
from poa_plugin.runs.entries import Entry, entries_of
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import open_run
from poa_plugin.targets import check_folder_target

K = 20
DINOV2_WORDS = [
    "dino.lambda_ie=1",
    "loss.terms.cross_view_elastic=false",
    "loss.terms.same_view=false",
    "loss.terms.masked_patch_elastic=false",
    "loss.terms.koleo_elastic=false",
]
"""DINOv2 as a configuration: no elastic student. Heads and everything else stay as in the file."""

SLACK = 1.1
"""How much longer than planned training may take before it is cut off."""

MEASURED = 12.0
"""Seconds of training from which the time of a step is taken."""


def demo(config: str, folder: Path, minutes: float) -> bool:
    """Train, extract, evaluate with k-NN and draw; print the table and the path of the page.

    Args:
        config: a recipe on a data set with labels.
        folder: for all outputs; trainings that have begun there are resumed.
        minutes: of training.

    Returns:
        Whether every trained network beats its untrained self.

    Raises:
        UserError: the recipe, its data or the folder cannot be used, or a training failed.
    """
    began = time.perf_counter()
    _check(config, folder)
    runs = {"poa": [], "dinov2": DINOV2_WORDS}
    _train_side_by_side(config, folder, runs, minutes)
    run = open_run(folder / "poa")
    torch.set_num_threads(available_cores())
    print(f"Extracting {len(run.space)} networks to '{folder / 'networks'}' ...", flush=True)
    write_all_networks(run, folder / "networks", force=True)
    print("Evaluating them, and themselves before training, with k-NN ...", flush=True)
    options = EvaluationOptions(
        settings={"ks": [K]},
        untrained=True,
        pixels=True,
        reference=open_run(folder / "dinov2"),
    )
    evaluate_run(run, options)
    entries = entries_of(read_results(run.folder / "eval"))
    page = write_report(run.folder)
    print(results_table(entries))
    better, total = count_better(entries)
    print(f"{better} of {total} networks beat their untrained selves.")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes. The page: {page}")
    return better == total


def count_better(entries: Sequence[Entry]) -> tuple[int, int]:
    """Return how many trained networks beat their untrained selves at K, and how many there are."""
    both = [entry for entry in entries if K in entry.top1 and K in entry.before]
    pairs = [(entry.top1[K], entry.before[K]) for entry in both]
    return sum(trained > before for trained, before in pairs), len(pairs)


def _train_side_by_side(
    config: str, folder: Path, runs: dict[str, list[str]], minutes: float
) -> None:
    threads = max(1, available_cores() // len(runs))
    overrides = {
        name: [*more, f"train.threads={threads}", path_override("output_dir", folder / name)]
        for name, more in runs.items()
    }
    epochs = _epochs(config, folder, overrides, minutes)
    train = [sys.executable, "-m", "poa_plugin", "train", config]
    limit = f"train.max_minutes={minutes * SLACK}"
    run_side_by_side(
        {
            name: [*train, *more, f"optim.epochs={epochs[name]}", limit]
            for name, more in overrides.items()
        }
    )


def _epochs(
    config: str, folder: Path, overrides: dict[str, list[str]], minutes: float
) -> dict[str, int]:
    """Return the epochs that fit into the time: measured, or those of a run that has begun."""
    epochs = {
        name: load_config(folder / name / "config.yaml").optim.epochs
        for name in overrides
        if (folder / name / "config.yaml").is_file()
    }
    new = [name for name in overrides if name not in epochs]
    if new:
        print("Measuring how long a step takes ...", flush=True)
        steps = load_config(config).train.OFFICIAL_EPOCH_LENGTH
        measure = {name: step_time.command(config, MEASURED, overrides[name]) for name in overrides}
        printed = run_side_by_side(measure)
        for name in new:
            epoch = steps * step_time.parse(printed[name])
            epochs[name] = max(1, int(60 * minutes / epoch))
    return epochs


def _check(config: str, folder: Path) -> None:
    """Raise before the minutes of training if what comes after them could not be done."""
    for name in ("poa", "dinov2", "networks"):
        check_folder_target(folder / name, "--to")
    train, test = labeled_splits(load_config(config))
    check_votes(len(train), len(test), [K], temperature=1.0)
