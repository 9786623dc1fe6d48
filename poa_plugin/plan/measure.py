"""How long a shard takes on this machine: a few steps on random images, nothing written."""

from __future__ import annotations

import copy
import time
from typing import NamedTuple

import torch

from poa_plugin.config.schema import Config
from poa_plugin.device import resolve_device
from poa_plugin.memory import check_memory, total_memory
from poa_plugin.plan.devices import Device
from poa_plugin.plan.numbers import count
from poa_plugin.plan.shapes import ShapeTensor
from poa_plugin.plan.trace import shard_batch
from poa_plugin.ssl import POA
from poa_plugin.ssl.prototypes import chunk_width
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step

LONGEST = 20.0
"""Seconds that a step may take for the next one to have twice the images."""

TOO_LARGE = "leave out --measure, or measure where the recipe is to be trained"


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        images: of the shard.
        flops_per_second: of its step, all things included.
        seconds: of it.
        device: for people.
    """

    images: int
    flops_per_second: float
    seconds: float
    device: str


def measure(config: Config) -> Measured:
    """Time steps of one shard, of one image at first and of twice as many as long as they are fast and fit.

    Decoding and augmentation are not in it.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    here = resolve_device(config.train.device)
    device = Device(here.type, total_memory(here), None, here.type == "cuda")
    small = copy.deepcopy(config)
    small.train.shards = small.train.batch_size_per_shard = 1
    model = build_model(small).train()
    optimizer = build_optimizer(model.get_params_groups(), small)
    model.set_step(small.ibot.start_epoch * small.train.OFFICIAL_EPOCH_LENGTH)
    best: Measured | None = None
    images, most = 1, config.train.batch_size_per_shard
    while True:
        small.train.batch_size_per_shard = images
        numbers = count(small, device)
        model.chunk_width = chunk_width(small, model.mask_grid)
        if best is None:
            check_memory(numbers.device_bytes, "A step of one image needs", TOO_LARGE, here)
        elif numbers.bytes_needed(device) > 0.9 * device.memory:
            return best
        seconds = _step_seconds(small, model, optimizer)
        best = Measured(images, numbers.flops / seconds, seconds, device.name)
        if images == most or 2 * seconds > LONGEST:
            return best
        images = min(2 * images, most)


def _step_seconds(config: Config, model: POA, optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of the second of two steps; the first one warms up."""
    batch = {name: _filled(x) for name, x in shard_batch(config, model).items()}
    values, began = Schedules(config)(model.steps_taken), 0.0
    for _ in range(2):
        _wait(model.step.device)
        began = time.perf_counter()
        train_step(model, optimizer, [batch], values, model.sample_subnets(1))
    _wait(model.step.device)
    return time.perf_counter() - began


def _filled(tensor: torch.Tensor) -> torch.Tensor:
    """Return crops with numbers; masks have theirs."""
    if not isinstance(tensor, ShapeTensor):
        return tensor
    return torch.randint(0, 256, tensor.shape, dtype=torch.uint8)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
