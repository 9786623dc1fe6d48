"""What `poa train` says before its first step and after its last."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import nn

from poa_plugin import ranks
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset
from poa_plugin.device import has_fast_bf16, on_meta, resolve_device
from poa_plugin.train.schedules import Schedules


def header(config: Config) -> str:
    """Return the header before anything is read or built: device, parameters, folder and steps."""
    with on_meta():
        backbone = build_backbone(config)
        space = backbone.space
        small, large = (_count(backbone.plain(space[name])) for name in ("smallest", "intact"))
    images = config.train.shards * config.train.batch_size_per_shard
    optim, epoch = config.optim, config.train.OFFICIAL_EPOCH_LENGTH
    total = Schedules(config).total_steps
    rows = {
        "device": f"{_device(config)}, {config.train.precision}",
        "parameters": f"{large} in the intact {config.student.arch}, {small} in the smallest of "
        f"{len(space)} networks",
        **_advice(config),
        "folder": config.output_dir,
        "steps": f"{total:,} ({optim.epochs} epochs of {epoch}), {images:,} images each",
    }
    return "\n".join(map(row, rows, rows.values()))


def images_row(dataset: Dataset, config: Config) -> str:
    """Return the line of the header about the data set."""
    place = f" in '{config.data.path}'" if config.data.path else ""
    return row("images", f"{len(dataset):,}{place} ({config.data.dataset})")


def say_first(text: str) -> None:
    """Print what one process of a run prints."""
    if ranks.is_first():
        print(text, flush=True)


def after_training(run: Path) -> str:
    """Return what to do with a run that is trained to its last step."""
    folder, target = shlex.quote(str(run)), shlex.quote(str(run / "smallest"))
    return (
        f"Next:\n"
        f"  poa sweep {folder}    evaluates all its networks\n"
        f"  poa extract {folder} --network smallest --to {target}    writes one as an ordinary model"
    )


def after_a_stop(run: Path, done: int, total: int, saved: bool) -> str:
    """Return how to resume a run that was stopped before its last step."""
    if not saved:
        return (
            f"Stopped after step {done} of {total}, before any step was finite: nothing was saved, and the "
            f"same command starts from the beginning."
        )
    return (
        f"Stopped after step {done} of {total}; the same command resumes from there, as does\n"
        f"  poa train {shlex.quote(str(run))}"
    )


def row(name: str, text: str) -> str:
    """Return a line of the header."""
    return f"{name:<12}{text}"


def _device(config: Config) -> str:
    device = resolve_device(config.train.device)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda)"
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"


def _advice(config: Config) -> dict[str, str]:
    """Return what would make training faster here, as rows."""
    if config.train.precision != "fp32" or not has_fast_bf16(resolve_device(config.train.device)):
        return {}
    return {"faster": "this device has fast bf16: train.precision=bf16 (see docs/performance.md)"}


def _count(network: nn.Module) -> str:
    """Return a number of parameters with three digits and a letter, such as 21.7M."""
    number = sum(parameter.numel() for parameter in network.parameters())
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
