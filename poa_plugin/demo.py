"""The whole path in minutes: train two networks side by side, extract, evaluate, draw.

POA's elastic network and a DINOv2-style network of the same intact size train at the same time, each
on half of the cores, for the same wall time; each does as many steps as fit.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from poa_plugin.config.load import load_config
from poa_plugin.data import build_dataset, train_batches
from poa_plugin.device import available_cores
from poa_plugin.errors import UserError
from poa_plugin.evaluate import results_table, write_report
from poa_plugin.evaluate.results import KnnRow, read_rows
from poa_plugin.evaluate.run import evaluate_knn
from poa_plugin.extract import open_run
from poa_plugin.train.loop import build_model, train_step
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.schedules import Schedules

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


def demo(config: str, folder: Path, minutes: float) -> bool:
    """Train, extract, evaluate with k-NN and draw; print the table and the path of the page.

    Args:
        config: a recipe on a data set with labels.
        folder: for all outputs; what is there already is gone on with.
        minutes: of training.

    Returns:
        Whether every trained network beats its untrained self.
    """
    began = time.perf_counter()
    runs = {"poa": [], "dinov2": DINOV2_WORDS}
    _train_side_by_side(config, folder, runs, minutes)
    run = open_run(folder / "poa")
    torch.set_num_threads(available_cores())
    print(f"Extracting {len(run.space)} networks to '{folder / 'networks'}' ...", flush=True)
    run.write_all(folder / "networks", force=True)
    print("Evaluating them, and themselves before training, with k-NN ...", flush=True)
    reference = open_run(folder / "dinov2")
    evaluate_knn(run, ks=[K], untrained=True, pixels=True, reference=reference)
    rows = read_rows(run.folder / "eval")
    page = write_report(run.folder)
    print(results_table(rows))
    better, total = count_better(rows)
    print(f"{better} of {total} networks beat their untrained selves.")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes. The page: {page}")
    return better == total


def count_better(rows: Sequence[KnnRow]) -> tuple[int, int]:
    """Return how many trained networks beat their untrained selves, and how many there are."""
    before = {row.network: row.top1 for row in rows if row.kind == "untrained"}
    trained = [row for row in rows if row.kind == "trained"]
    return sum(row.top1 > before[row.network] for row in trained), len(trained)


def seconds_per_step(config: str, words: Sequence[str], seconds: float) -> float:
    """Train from scratch for some seconds, without writing anything; return the time of a step."""
    resolved = load_config(config, words)
    torch.set_num_threads(resolved.train.threads or 1)
    model, schedules = build_model(resolved), Schedules(resolved)
    optimizer = build_optimizer(model.get_params_groups(), resolved)
    dataset = build_dataset(resolved, "train")
    batches = train_batches(resolved, dataset, model.mask_grid, 0, schedules.total_steps)
    times = []
    for step, shards in enumerate(batches):
        subnets = model.sample_subnets(len(shards))
        train_step(model, optimizer, shards, schedules(step), subnets)
        times.append(time.perf_counter())
        if len(times) > 2 and times[-1] - times[0] > seconds:
            break
    return (times[-1] - times[0]) / (len(times) - 1)


def _train_side_by_side(
    config: str, folder: Path, runs: dict[str, list[str]], minutes: float
) -> None:
    threads = max(1, available_cores() // len(runs))
    commands = {}
    fixed = {
        name: [*words, f"train.threads={threads}", f"output_dir={folder / name}"]
        for name, words in runs.items()
    }
    epochs = _epochs(config, folder, fixed, minutes)
    for name, words in fixed.items():
        limits = [f"optim.epochs={epochs[name]}", f"train.max_minutes={minutes * SLACK}"]
        commands[name] = [sys.executable, "-m", "poa_plugin", "train", config, *words, *limits]
    processes = {
        name: subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        for name, command in commands.items()
    }
    readers = [
        threading.Thread(target=_print_lines, args=(name, process), daemon=True)
        for name, process in processes.items()
    ]
    for reader in readers:
        reader.start()
    for name, process in processes.items():
        if process.wait() != 0:
            for other in processes.values():
                other.terminate()
            raise UserError(f"Training '{name}' ended with exit status {process.returncode}.")
    for reader in readers:
        reader.join()


def _epochs(
    config: str, folder: Path, runs: dict[str, list[str]], minutes: float
) -> dict[str, int]:
    """Return the epochs that fit into the time: measured, or those of a run that has begun."""
    begun = {
        name: load_config(folder / name / "config.yaml").optim.epochs
        for name in runs
        if (folder / name / "config.yaml").is_file()
    }
    if len(begun) == len(runs):
        return begun
    print("Measuring how long a step takes ...", flush=True)
    with ProcessPoolExecutor(len(runs), mp_context=get_context("spawn")) as pool:
        jobs = {
            name: pool.submit(seconds_per_step, config, words, 12.0) for name, words in runs.items()
        }
        seconds = {name: job.result() for name, job in jobs.items()}
    epoch = load_config(config).train.OFFICIAL_EPOCH_LENGTH
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} seconds a step", flush=True)
    return {
        name: begun.get(name, max(1, int(60 * minutes / (value * epoch))))
        for name, value in seconds.items()
    }


def _print_lines(name: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            print(f"{name:>7} | {line}", end="", flush=True)
