"""`python -m poa_plugin.step_time CONFIG SECONDS key=value ...` prints how long a step of training takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import islice

import torch

from poa_plugin.config.load import load_config
from poa_plugin.data import build_dataset, train_shards
from poa_plugin.failures import INTERRUPTED, say
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step

PREFIX = "seconds per step: "


def command(config: str, seconds: float, overrides: Sequence[str]) -> list[str]:
    """Return the command line that measures in a separate process."""
    return [sys.executable, "-m", "poa_plugin.step_time", config, str(seconds), *overrides]


def parse(output: Sequence[str]) -> float:
    """Return the seconds in the command's output."""
    [result] = [line for line in output if line.startswith(PREFIX)]
    return float(result.removeprefix(PREFIX))


def seconds_per_step(config: str, overrides: Sequence[str], seconds: float) -> float:
    """Train from scratch for some seconds, without writing anything; return the time of a step.

    The first step, which warms up, counts only if it is the only one.
    """
    resolved = load_config(config, overrides)
    torch.set_num_threads(resolved.train.threads or 1)
    model, schedules = build_model(resolved), Schedules(resolved)
    optimizer = build_optimizer(model.get_params_groups(), resolved)
    dataset = build_dataset(resolved, "train")
    all_shards = train_shards(resolved, dataset, model.mask_grid, 0, schedules.total_steps)
    times = [time.perf_counter()]
    for step in range(schedules.total_steps):
        shards = islice(all_shards, resolved.train.shards)
        subnets = model.sample_subnets(resolved.train.shards)
        train_step(model, optimizer, shards, schedules(step), subnets)
        times.append(time.perf_counter())
        if len(times) > 3 and times[-1] - times[1] > seconds:
            break
    times = times[1:] if len(times) > 2 else times
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> int:
    """Measure, and print the result; an error is a sentence and exit status 2."""
    config, seconds, *overrides = sys.argv[1:]
    try:
        print(f"{PREFIX}{seconds_per_step(config, overrides, float(seconds)):.4f}", flush=True)
    except KeyboardInterrupt:  # the demo says so
        return INTERRUPTED
    except Exception as error:
        return say(error, sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
