"""Training, in the order of the paper's algorithm."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poa_plugin import ranks
from poa_plugin.config.contradictions import oddities
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset, Names, image_names
from poa_plugin.data.faults import BadImages
from poa_plugin.device import resolve_device
from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors
from poa_plugin.loggers import Loggers, check_loggers
from poa_plugin.ssl import POA, check_model
from poa_plugin.train import checkpoint
from poa_plugin.train.agreement import Requests
from poa_plugin.train.folder import check_folder, claim_folder
from poa_plugin.train.header import (
    after_a_stop,
    after_training,
    header,
    images_row,
    say_first,
)
from poa_plugin.train.heartbeat import Heartbeat, heartbeat
from poa_plugin.train.images import ImageRecord, check_images
from poa_plugin.train.lock import Lock, hold
from poa_plugin.train.metrics import Metrics
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.pace import Pace
from poa_plugin.train.parallel import build_model
from poa_plugin.train.reading import open_images, read_shards
from poa_plugin.train.saver import Saver
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.skipping import SkippedSteps
from poa_plugin.train.step import scaler_state, train_step
from poa_plugin.train.stopping import StopRequest, stop_on_signals
from poa_plugin.train.timing import StepShards


class Outcome(NamedTuple):
    """How training ended: at its last step, or before it, by a signal or by `train.max_minutes`."""

    finished: bool
    signal: int | None = None


def train(config: Config) -> Outcome:
    """Pre-train, from the newest checkpoint of `config.output_dir` if there is one.

    Writes the resolved configuration, `metrics.jsonl`, `ckpt/<step>/` and the skipped
    steps into the output folder, which is locked meanwhile, and logs to `train.loggers`. Of the ranks that a
    launcher started, each takes its part of every step's shards, and rank 0 writes.

    Returns:
        How the run ended; a checkpoint has been written, unless a signal came before the first finite step.

    Raises:
        UserError: the configuration, the data, the folder, a logger or a checkpoint cannot be used, the
            folder is another training's, the disk refuses, too many steps in a row or all of them were not
            finite, or the weights are not; or another rank has ended or is late.
    """
    run, train = Path(config.output_dir), config.train
    check_model(config)
    check_loggers(config)
    if train.threads:
        torch.set_num_threads(train.threads)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(ranks.joined(resolve_device(train.device), 2 * train.timeout_s))
        ranks.my_shards(train.shards)
        life = stack.enter_context(heartbeat(train.timeout_s))
        say_first(header(config))
        for oddity in oddities(config) if ranks.is_first() else []:
            print(f"poa: warning: {oddity}", file=sys.stderr)
        lock = stack.enter_context(hold(run)) if ranks.is_first() else None
        if lock is not None:
            life.before_exit(lock.release)
        newest, changes = _open_folder(run, config)
        dataset = open_images(config)
        say_first(images_row(dataset, config))
        names = image_names(dataset)
        changes += _check_images(run, config, names, newest)
        model = build_model(config)
        optimizer = build_optimizer(model.get_params_groups(), config)
        state = _resume(newest, model, optimizer)
        if ranks.is_first():
            with disk_errors(run):
                claim_folder(run, config, changes, names)
        total = Schedules(config).total_steps
        if state["step"] < total:
            outcome = _train(run, config, dataset, model, optimizer, state, stop, lock, life)
        else:
            say_first(f"'{run}' is already trained to its last step, {total}.")
            outcome = Outcome(finished=True)
        if outcome.finished:
            say_first(after_training(run))
    return outcome


def _train(
    run: Path,
    config: Config,
    dataset: Dataset,
    model: POA,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    stop: StopRequest,
    lock: Lock | None,
    life: Heartbeat,
) -> Outcome:
    """Run all steps from `state["step"]` on."""
    schedules, start = Schedules(config), int(state["step"])
    total, period = schedules.total_steps, config.train.checkpoint_period
    metrics, skipped = _records(run, config, state)
    bad_images = BadImages(run, len(dataset), config.data.max_bad_ratio)
    all_shards = read_shards(config, dataset, model.mask_grid, start, total, bad_images)
    deadline = time.perf_counter() + 60 * (config.train.max_minutes or math.inf)
    mine, pace = ranks.my_shards(config.train.shards), Pace(run)
    model.train()

    done, last_good, stop.training = start, state, True
    non_finite: list[str] = []
    with closing(metrics), _saver(run, config) as saver:
        for step in range(start, total):
            shards, values = StepShards(all_shards, len(mine), life, step), schedules(step)
            subnets = model.sample_subnets(config.train.shards)
            taken = train_step(
                model,
                optimizer,
                shards,
                values,
                subnets[mine.start : mine.stop],
                partial(_requests, stop, deadline, shards),
            )
            non_finite, scaler, times = taken.non_finite, taken.scaler, shards.times()
            pace.add_step(sum(times))
            if non_finite and not skipped.in_a_row:
                last_good = _state(step, scaler, metrics)
            if taken.requests.bad_images and ranks.world() > 1:
                bad_images.exchange(shards.bad_images)
            elastic = subnets if model.has_elastic_student else []
            if lock is not None:
                lock.check()
            metrics.add(step, taken, values, elastic, times)
            skipped.record(step, non_finite, shards.image_ids, subnets, scaler)

            done = step + 1
            ends = stop.ends(taken.requests.signal) or taken.requests.out_of_time
            ends = ends or done == total or skipped.too_many
            life.enter("writing", step)
            if skipped.in_a_row and ends and (done < total or skipped.too_many):
                if last_good["step"] > start:
                    _save(saver, pace, model, optimizer, last_good)
            elif skipped.any_finite and (ends or (done % period == 0 and not skipped.in_a_row)):
                metrics.flush()
                _save(saver, pace, model, optimizer, _state(done, scaler_state(model), metrics))
            if ends:
                break
    if skipped.too_many or not (skipped.any_finite or stop.ended_by):
        raise UserError(_failure(run, skipped, non_finite, done, last_good["step"]))
    if done < total:
        say_first(after_a_stop(run, done, total, skipped.any_finite))
    return Outcome(done == total, stop.ended_by)


def _requests(stop: StopRequest, deadline: float, shards: StepShards) -> Requests:
    """Return what this rank asks of the others in a step."""
    return Requests(stop.signal or 0, time.perf_counter() > deadline, len(shards.bad_images))


def _records(run: Path, config: Config, state: dict[str, Any]) -> tuple[Metrics, SkippedSteps]:
    """Return the records of the steps of a run from `state["step"]` on."""
    train, start, total = config.train, int(state["step"]), Schedules(config).total_steps
    epoch, images = train.OFFICIAL_EPOCH_LENGTH, train.shards * train.batch_size_per_shard
    scaler_fits = state.get("scaler") is not None
    skipped = SkippedSteps(run, train.max_skipped_steps, start, scaler_fits)
    loggers = Loggers(run, config, start) if ranks.is_first() else None
    period, earlier = train.log_period, state.get("metrics")
    metrics = Metrics(run, period, start, total, epoch, images, earlier, loggers)
    return metrics, skipped


def _open_folder(run: Path, config: Config) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to resume from, if there is one, and changes of the configuration; see rank 0."""
    found: tuple[Path | None, list[str]] = (None, [])
    if ranks.is_first():
        newest = _newest(run, config)
        found = newest, check_folder(run, config, newest)
        if newest is not None:
            print(f"Resuming from '{newest}'.")
    return ranks.of_first(found)


def _check_images(run: Path, config: Config, names: Names, newest: Path | None) -> list[str]:
    """Return how the images differ from the run's; see `check_images`. All ranks must see the same.

    Raises:
        UserError: a rank sees other images than rank 0.
    """
    records = ranks.gathered_objects((ImageRecord.of(names), ranks.name()))
    for record, rank in records:
        if record != records[0][0]:
            raise UserError(
                f"Not all ranks see the same images under data.path: {records[0][1]} sees "
                f"{records[0][0].n_images}, and {rank} sees {record.n_images}, or others."
            )
    return check_images(run, config, names, newest) if ranks.is_first() else []


def _newest(run: Path, config: Config) -> Path | None:
    """Return the checkpoint to resume from, if there is one."""
    root, fall_back = run / "ckpt", config.train.damaged_checkpoint == "previous"
    with disk_errors(run):
        checkpoint.clear_unfinished(root)
        return checkpoint.latest(root, fall_back)


def _resume(folder: Path | None, model: POA, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint, if there is one, and return its state."""
    if folder is None:
        return {"step": 0}
    state = checkpoint.load(folder, model, optimizer)
    if model.fp16_scaler is not None and state.get("scaler"):
        model.fp16_scaler.load_state_dict(state["scaler"])
    if model.steps_taken != state["step"]:
        raise UserError(f"'{folder}' contradicts itself: step {model.steps_taken} and {state}.")
    return state


def _state(step: int, scaler: dict[str, Any] | None, metrics: Metrics) -> dict[str, Any]:
    """Return a checkpoint's `state.json`: the next step to run, and what must not start anew with it."""
    return {"step": step, "scaler": scaler, "metrics": metrics.state()}


def _saver(run: Path, config: Config) -> Saver:
    train = config.train
    multiples = train.keep_every * train.checkpoint_period
    return Saver(run / "ckpt", train.keep_checkpoints, multiples, train.async_checkpoints)


def _save(
    saver: Saver,
    pace: Pace,
    model: POA,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    model.set_step(state["step"])
    saver.save(model, optimizer, state)
    pace.add_checkpoint(saver.longest)


def _failure(
    run: Path, skipped: SkippedSteps, non_finite: Sequence[str], done: int, last_good_step: int
) -> str:
    """Return why a run ends in which too many steps in a row, or all, were skipped."""
    what = f"{skipped.in_a_row} steps in a row" if skipped.any_finite else f"all {done} steps"
    saved = (
        f"The weights are those from before them, saved as '{run / 'ckpt' / str(last_good_step)}'"
    )
    return (
        f"The loss was not finite in {what} ({', '.join(non_finite)}). "
        f"{saved if skipped.any_finite else 'No checkpoint is written'}; '{skipped.path}' lists the images. "
        f"Lower optim.base_lr or use train.precision=fp32, with train.accept_changes=true."
    )
