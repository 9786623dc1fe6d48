"""Training, in the order of the paper's algorithm."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from poa_plugin.config.contradictions import oddities
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset, image_names
from poa_plugin.device import resolve_device
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors
from poa_plugin.loggers import Loggers, check_loggers
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl import POA, check_model
from poa_plugin.train import checkpoint
from poa_plugin.train.folder import check_folder, claim_folder
from poa_plugin.train.header import after_a_stop, after_training, header, images_row
from poa_plugin.train.images import check_images
from poa_plugin.train.lock import Lock, hold
from poa_plugin.train.metrics import Metrics
from poa_plugin.train.optim import apply_schedule, build_optimizer, clip_gradients
from poa_plugin.train.parallel import compile_blocks
from poa_plugin.train.processes import refuse_several_processes
from poa_plugin.train.reading import open_images, read_shards
from poa_plugin.train.saver import Saver
from poa_plugin.train.schedules import Schedules, Values
from poa_plugin.train.skipping import GRADIENT, SkippedSteps, not_finite
from poa_plugin.train.stopping import StopRequest, stop_on_signals
from poa_plugin.train.timing import StepShards


class Outcome(NamedTuple):
    """How training ended: at its last step, or before it, by a signal or by `train.max_minutes`."""

    finished: bool
    signal: int | None = None


def train(config: Config) -> Outcome:
    """Pre-train, from the newest checkpoint of `config.output_dir` if there is one.

    Writes the resolved configuration, `metrics.jsonl`, `ckpt/<step>/` and the skipped
    steps into the output folder, which is locked meanwhile, and logs to `train.loggers`.

    Returns:
        How the run ended; a checkpoint has been written, unless a signal came before the first finite step.

    Raises:
        UserError: the configuration, the data, the folder, a logger or a checkpoint cannot be used, the
            folder is another training's, the disk refuses, too many steps in a row or all of them were not
            finite, or the weights are not.
    """
    run = Path(config.output_dir)
    refuse_several_processes()
    check_model(config)
    check_loggers(config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    print(header(config), flush=True)
    for oddity in oddities(config):
        print(f"poa: warning: {oddity}", file=sys.stderr)
    with stop_on_signals() as stop, hold(run) as lock:
        newest = _newest(run, config)
        changes = check_folder(run, config, newest)
        if newest is not None:
            print(f"Resuming from '{newest}'.")
        dataset = open_images(config)
        print(images_row(dataset, config), flush=True)
        names = image_names(dataset)
        changes += check_images(run, config, names, newest)
        model = build_model(config)
        optimizer = build_optimizer(model.get_params_groups(), config)
        state = _resume(newest, model, optimizer)
        with disk_errors(run):
            claim_folder(run, config, changes, names)
        total = Schedules(config).total_steps
        if state["step"] < total:
            outcome = _train(run, config, dataset, model, optimizer, state, stop, lock)
        else:
            print(f"'{run}' is already trained to its last step, {total}.")
            outcome = Outcome(finished=True)
    if outcome.finished:
        print(after_training(run))
    return outcome


def _train(
    run: Path,
    config: Config,
    dataset: Dataset,
    model: POA,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    stop: StopRequest,
    lock: Lock,
) -> Outcome:
    """Run all steps from `state["step"]` on."""
    schedules, start = Schedules(config), int(state["step"])
    total, period = schedules.total_steps, config.train.checkpoint_period
    metrics, skipped = _records(run, config, state)
    all_shards = read_shards(config, dataset, model.mask_grid, start, total, run)
    deadline = time.perf_counter() + 60 * (config.train.max_minutes or math.inf)
    model.train()

    done, last_good, stop.training = start, state, True
    non_finite: list[str] = []
    with closing(metrics), _saver(run, config) as saver:
        for step in range(start, total):
            shards, values = StepShards(all_shards, config.train.shards), schedules(step)
            subnets = model.sample_subnets(config.train.shards)
            terms, norms, non_finite, scaler = train_step(model, optimizer, shards, values, subnets)
            times = shards.times()
            if non_finite and not skipped.in_a_row:
                last_good = _state(step, scaler, metrics)
            elastic = subnets if model.has_elastic_student else []
            lock.check()
            heads = model.terms_by_head
            metrics.add(step, terms, norms, values, elastic, times, bool(non_finite), heads)
            skipped.record(step, non_finite, shards.image_ids, subnets, scaler)

            done = step + 1
            ends = done == total or stop.requested or time.perf_counter() > deadline
            ends = ends or skipped.too_many
            if skipped.in_a_row and ends and (done < total or skipped.too_many):
                if last_good["step"] > start:
                    _save(saver, model, optimizer, last_good)
            elif skipped.any_finite and (ends or (done % period == 0 and not skipped.in_a_row)):
                metrics.flush()
                _save(saver, model, optimizer, _state(done, _scaler_state(model), metrics))
            if ends:
                break
    if skipped.too_many or not (skipped.any_finite or stop.requested):
        raise UserError(_failure(run, skipped, non_finite, done, last_good["step"]))
    if done < total:
        print(after_a_stop(run, done, total, skipped.any_finite))
    return Outcome(done == total, stop.signal)


def _records(run: Path, config: Config, state: dict[str, Any]) -> tuple[Metrics, SkippedSteps]:
    """Return the records of the steps of a run from `state["step"]` on."""
    train, start, total = config.train, int(state["step"]), Schedules(config).total_steps
    epoch, images = train.OFFICIAL_EPOCH_LENGTH, train.shards * train.batch_size_per_shard
    scaler_fits = state.get("scaler") is not None
    skipped = SkippedSteps(run, train.max_skipped_steps, start, scaler_fits)
    loggers = Loggers(run, config, start)
    period, earlier = train.log_period, state.get("metrics")
    metrics = Metrics(run, period, start, total, epoch, images, earlier, loggers)
    return metrics, skipped


class Step(NamedTuple):
    """The outcome of a step.

    Attributes:
        terms: loss terms.
        norms: of the gradients, before clipping.
        non_finite: names of the values that were not finite; if there are any, the step was skipped.
        scaler: the state of the fp16 gradient scaler before a skipped step.
    """

    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    non_finite: list[str]
    scaler: dict[str, Any] | None


def train_step(
    model: POA,
    optimizer: torch.optim.Optimizer,
    shards: Iterable[Mapping[str, Any]],
    values: Values,
    subnets: Sequence[Subnet],
) -> Step:
    """Run one step: gradients of all branches, clipping, AdamW, and the teacher's average.

    A step in which the loss, a gradient or a scheduled value is not finite leaves weights, moments and the
    teacher untouched; it is counted. A gradient that overflows at the fp16 scaler's scale is one of
    these; the scaler lowers it then.
    """
    apply_schedule(optimizer, values)
    optimizer.zero_grad(set_to_none=True)
    terms = model.forward_backward(shards, values.teacher_temp, subnets)
    scaler = model.fp16_scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    norms = clip_gradients(model.student, model.config.optim.clip_grad)
    gradients = {f"{GRADIENT}{name}": norm for name, norm in norms.items()}
    non_finite = not_finite({**terms, **gradients}) + _not_finite_settings(optimizer, values)
    entered_with = _scaler_state(model) if non_finite else None
    if non_finite:
        model.skip_step()
    else:
        optimizer.step() if scaler is None else scaler.step(optimizer)
        model.update_teacher(values.momentum)
    if scaler is not None:
        scaler.update()
    return Step(terms, norms, non_finite, entered_with)


def _not_finite_settings(optimizer: torch.optim.Optimizer, values: Values) -> list[str]:
    """Return the names of scheduled values, and of settings computed from them, that are not finite."""
    groups = [group[key] for group in optimizer.param_groups for key in ("lr", "weight_decay")]
    non_finite = [name for name, value in asdict(values).items() if not math.isfinite(value)]
    if not non_finite and not all(map(math.isfinite, groups)):
        non_finite = ["lr or weight_decay of a parameter group"]
    return non_finite


def build_model(config: Config) -> POA:
    """Build the meta-architecture on its device, its teacher equal to its student."""
    model = META_ARCHS.get(config.meta_arch)(config).to(resolve_device(config.train.device))
    model.prepare_for_distributed_training()
    if config.train.compile:
        compile_blocks(model)
    return cast(POA, model)


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
    saver: Saver, model: POA, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    model.set_step(state["step"])
    saver.save(model, optimizer, state)


def _scaler_state(model: POA) -> dict[str, Any] | None:
    return model.fp16_scaler.state_dict() if model.fp16_scaler is not None else None


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
