"""`python -m tests.plan.peak RECIPE key=value ...` prints the bytes that two steps take at their peak."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from poa_plugin.config.load import default_config, load_config
from poa_plugin.config.schema import Config
from poa_plugin.plan.trace import shard_batch
from poa_plugin.ssl import POA
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step
from tests.conftest import FAMILIES
from tests.plan.test_trace import with_numbers


def batches(config: Config, model: POA) -> Iterator[dict[str, torch.Tensor]]:
    for _ in range(config.train.shards):
        yield with_numbers(shard_batch(config, model))


def take_steps(config: Config, steps: int) -> None:
    """Train on random images, masks on, with the largest elastic students that are drawn."""
    model = build_model(config).train()
    optimizer = build_optimizer(model.get_params_groups(), config)
    start = config.ibot.start_epoch * config.train.OFFICIAL_EPOCH_LENGTH
    subnets = [list(model.space)[-2]] * config.train.shards
    for step in range(start, start + steps):
        model.set_step(step)
        train_step(model, optimizer, batches(config, model), Schedules(config)(step), subnets)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def main() -> None:
    torch.set_num_threads(1)
    config = load_config(sys.argv[1], sys.argv[2:])
    for precision in ("fp32", "bf16"):
        small = [*FAMILIES[config.student.arch], f"train.precision={precision}"]
        take_steps(default_config(small), 1)
    before = status("VmRSS")
    take_steps(config, 2)
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main()
