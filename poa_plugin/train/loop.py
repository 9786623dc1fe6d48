"""Training, in the order of the paper's algorithm."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from poa_plugin.config import Config, save_config
from poa_plugin.data import build_dataset, train_batches
from poa_plugin.device import resolve_device
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl import POA
from poa_plugin.train import checkpoint
from poa_plugin.train.metrics import Metrics
from poa_plugin.train.optim import apply_schedule, build_optimizer, clip_gradients
from poa_plugin.train.schedules import Schedules, Values


class Outcome(NamedTuple):
    """How training ended: at its last step, or before it, by a signal or by `train.max_minutes`."""

    finished: bool
    signal: int | None = None


def train(config: Config) -> Outcome:
    """Pre-train, from the newest checkpoint of `config.output_dir` if there is one.

    Writes the resolved configuration, `metrics.jsonl`, TensorBoard events and `ckpt/<step>/` into
    the output folder.

    Returns:
        How the run ended; a checkpoint has been written in every case.

    Raises:
        UserError: the configuration, the data or the checkpoint cannot be used, or the loss is not
            finite.
    """
    run = Path(config.output_dir)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    schedules = Schedules(config)
    dataset = build_dataset(config, "train")
    model = build_model(config)
    optimizer = build_optimizer(model.get_params_groups(), config)
    run.mkdir(parents=True, exist_ok=True)
    start = _resume(run, model, optimizer)
    save_config(config, run / "config.yaml")
    total, epoch = schedules.total_steps, config.train.OFFICIAL_EPOCH_LENGTH
    if start >= total:
        print(f"'{run}' is already trained to its last step, {total}.")
        return Outcome(finished=True)
    images = config.train.shards * config.train.batch_size_per_shard
    metrics = Metrics(run, config.train.log_period, start, total, epoch, images)
    grid = model.mask_grid
    batches = train_batches(config, dataset, grid, start, total)
    deadline = time.perf_counter() + 60 * (config.train.max_minutes or math.inf)
    model.train()

    step = start
    with stop_on_signals() as stop:
        try:
            for step, shards in enumerate(batches, start):
                values = schedules(step)
                subnets = model.sample_subnets(len(shards))
                terms, norms = train_step(model, optimizer, shards, values, subnets)
                metrics.add(
                    step, terms, norms, values, subnets if model.has_elastic_student else []
                )
                done = step + 1
                ends = done == total or stop.requested or time.perf_counter() > deadline
                if ends or done % config.train.checkpoint_period == 0:
                    _save(run, model, optimizer, done, config.train.keep_checkpoints)
                if ends:
                    break
        finally:
            metrics.close()
    if step + 1 < total:
        print(f"Stopped after step {step + 1} of {total}; the same command goes on from there.")
    return Outcome(step + 1 == total, stop.signal)


def train_step(
    model: POA,
    optimizer: torch.optim.Optimizer,
    shards: Sequence[Mapping[str, Any]],
    values: Values,
    subnets: Sequence[Subnet],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take one step: gradients of all branches, clipping, AdamW, and the teacher's average.

    Returns:
        The summands of the loss, and the gradients' norms before clipping by sub-module.

    Raises:
        UserError: the loss is not finite; nothing has been updated.
    """
    apply_schedule(optimizer, values)
    optimizer.zero_grad(set_to_none=True)
    terms = model.forward_backward(shards, values.teacher_temp, subnets)
    refuse_non_finite(terms, int(model.step))
    norms = optimizer_step(model, optimizer, model.config.optim.clip_grad)
    model.update_teacher(values.momentum)
    return terms, norms


def build_model(config: Config) -> POA:
    """Build the meta-architecture on its device, its teacher equal to its student."""
    model = META_ARCHS.get(config.meta_arch)(config).to(resolve_device(config.train.device))
    model.prepare_for_distributed_training()
    return cast(POA, model)


def optimizer_step(model: POA, optimizer: torch.optim.Optimizer, clip: float) -> dict[str, Tensor]:
    """Clip each sub-module's gradient and take a step; return the norms before clipping."""
    scaler = model.fp16_scaler
    if scaler is None:
        norms = clip_gradients(model.student, clip)
        optimizer.step()
        return norms
    scaler.unscale_(optimizer)
    norms = clip_gradients(model.student, clip)
    scaler.step(optimizer)
    scaler.update()
    return norms


def refuse_non_finite(terms: dict[str, Tensor], step: int) -> None:
    """Raise a `UserError` if the loss is not finite, before the weights are touched."""
    if not torch.isfinite(torch.stack(list(terms.values())).sum()):
        wrong = [name for name, value in terms.items() if not torch.isfinite(value)]
        raise UserError(
            f"The loss is not finite at step {step} ({', '.join(wrong)}): nothing was updated, and "
            f"the last checkpoint is whole; lower optim.base_lr or use train.precision=fp32."
        )


class StopRequest:
    """Whether a signal has asked the run to end."""

    signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether one has."""
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a first signal; a second Ctrl-C interrupts at once."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        print(f"\n{signal.Signals(number).name}: saving after this step ...", flush=True)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request to end after the step, while the context lasts."""
    stop = StopRequest()
    handled = (signal.SIGINT, signal.SIGTERM)
    previous: dict[int, Any] = {number: signal.signal(number, stop) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _resume(run: Path, model: POA, optimizer: torch.optim.Optimizer) -> int:
    folder = checkpoint.latest(run / "ckpt")
    if folder is None:
        return 0
    state = checkpoint.load(folder, model, optimizer)
    if model.fp16_scaler is not None and state.get("scaler"):
        model.fp16_scaler.load_state_dict(state["scaler"])
    if int(model.step) != state["step"]:
        raise UserError(f"'{folder}' disagrees with itself: step {int(model.step)} and {state}.")
    print(f"Resuming from '{folder}'.")
    return int(state["step"])


def _save(run: Path, model: POA, optimizer: torch.optim.Optimizer, step: int, keep: int) -> None:
    scaler = model.fp16_scaler.state_dict() if model.fp16_scaler is not None else None
    state = {"step": step, "scaler": scaler}
    checkpoint.save(run / "ckpt", model, optimizer, state, keep)
