"""Training, in the order of the paper's algorithm."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from poa_plugin.config.contradictions import oddities
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset, build_dataset, image_names, train_batches
from poa_plugin.device import resolve_device
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors
from poa_plugin.registry import META_ARCHS
from poa_plugin.ssl import POA, check_model
from poa_plugin.train import checkpoint
from poa_plugin.train.folder import check_folder, claim_folder
from poa_plugin.train.images import check_images
from poa_plugin.train.metrics import Metrics
from poa_plugin.train.optim import apply_schedule, build_optimizer, clip_gradients
from poa_plugin.train.parallel import compile_blocks
from poa_plugin.train.schedules import Schedules, Values
from poa_plugin.train.skipping import SkippedSteps, not_finite


class Outcome(NamedTuple):
    """How training ended: at its last step, or before it, by a signal or by `train.max_minutes`."""

    finished: bool
    signal: int | None = None


def train(config: Config) -> Outcome:
    """Pre-train, from the newest checkpoint of `config.output_dir` if there is one.

    Writes the resolved configuration, `metrics.jsonl`, TensorBoard events, `ckpt/<step>/` and the
    steps that had to be skipped into the output folder.

    Returns:
        How the run ended; a checkpoint has been written in every case.

    Raises:
        UserError: the configuration, the data, the folder or a checkpoint cannot be used, the disk
            refuses, or too many steps in a row were not finite.
    """
    run = Path(config.output_dir)
    check_model(config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with disk_errors(run):
        newest = _newest(run, config)
        changes = check_folder(run, config, newest)
        dataset = build_dataset(config, "train")
        names = image_names(dataset)
        changes += check_images(run, config, names, newest)
        model = build_model(config)
        optimizer = build_optimizer(model.get_params_groups(), config)
        state = _resume(newest, model, optimizer)
        claim_folder(run, config, changes, names)
        for oddity in oddities(config):
            print(f"poa: warning: {oddity}", file=sys.stderr)
        total = Schedules(config).total_steps
        if state["step"] >= total:
            print(f"'{run}' is already trained to its last step, {total}.")
            return Outcome(finished=True)
        return _train(run, config, dataset, model, optimizer, state)


def _train(
    run: Path,
    config: Config,
    dataset: Dataset,
    model: POA,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> Outcome:
    """Take all steps from `state["step"]` on, whatever the earlier ones left there."""
    schedules, start = Schedules(config), int(state["step"])
    total, epoch = schedules.total_steps, config.train.OFFICIAL_EPOCH_LENGTH
    images = config.train.shards * config.train.batch_size_per_shard
    period, so_far = config.train.log_period, state.get("metrics")
    metrics = Metrics(run, period, start, total, epoch, images, so_far)
    skipped = SkippedSteps(run, config.train.max_skipped_steps, start)
    batches = train_batches(config, dataset, model.mask_grid, start, total, run)
    deadline = time.perf_counter() + 60 * (config.train.max_minutes or math.inf)
    model.train()

    done, good = start, state
    with stop_on_signals() as stop, closing(metrics):
        for step, shards in enumerate(batches, start):
            values = schedules(step)
            subnets = model.sample_subnets(len(shards))
            scaler = _scaler_state(model)
            terms, norms, wrong = train_step(model, optimizer, shards, values, subnets)
            if wrong and not skipped.in_a_row:
                good = {"step": step, "scaler": scaler, "metrics": metrics.state()}
            elastic = subnets if model.has_elastic_student else []
            metrics.add(step, terms, norms, values, elastic, skipped=bool(wrong))
            skipped.note(step, wrong, shards, subnets)

            done = step + 1
            ends = done == total or stop.requested or time.perf_counter() > deadline
            if skipped.in_a_row and (skipped.too_many or (ends and done < total)):
                _save(run, model, optimizer, good)
            elif ends or (done % config.train.checkpoint_period == 0 and not skipped.in_a_row):
                metrics.flush()
                now = {"scaler": _scaler_state(model), "metrics": metrics.state()}
                _save(run, model, optimizer, {"step": done, **now})
            if skipped.too_many:
                raise UserError(_too_many(run, skipped.limit, wrong, good["step"]))
            if ends:
                break
    if done < total:
        print(f"Stopped after step {done} of {total}; the same command goes on from there.")
    return Outcome(done == total, stop.signal)


class Step(NamedTuple):
    """What a step put out: summands of the loss, norms of gradients before clipping, what was not finite."""

    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    wrong: list[str]


def train_step(
    model: POA,
    optimizer: torch.optim.Optimizer,
    shards: Sequence[Mapping[str, Any]],
    values: Values,
    subnets: Sequence[Subnet],
) -> Step:
    """Take one step: gradients of all branches, clipping, AdamW, and the teacher's average.

    A step whose loss or gradient is not finite leaves weights, moments and the teacher untouched; it is
    counted. A gradient that overflows under the fp16 scaler is the scaler's to mend.
    """
    apply_schedule(optimizer, values)
    optimizer.zero_grad(set_to_none=True)
    terms = model.forward_backward(shards, values.teacher_temp, subnets)
    scaler = model.fp16_scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    norms = clip_gradients(model.student, model.config.optim.clip_grad)
    gradients = {} if scaler is not None else {f"gradient of {k}": v for k, v in norms.items()}
    wrong = not_finite({**terms, **gradients})
    if wrong:
        model.skip_step()
    else:
        optimizer.step() if scaler is None else scaler.step(optimizer)
        model.update_teacher(values.momentum)
    if scaler is not None:
        scaler.update()
    return Step(terms, norms, wrong)


def build_model(config: Config) -> POA:
    """Build the meta-architecture on its device, its teacher equal to its student."""
    model = META_ARCHS.get(config.meta_arch)(config).to(resolve_device(config.train.device))
    model.prepare_for_distributed_training()
    if config.train.compile:
        compile_blocks(model)
    return cast(POA, model)


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


def _newest(run: Path, config: Config) -> Path | None:
    """Return the checkpoint to go on from, if there is one."""
    root, fall_back = run / "ckpt", config.train.damaged_checkpoint == "previous"
    checkpoint.clear_unfinished(root)
    return checkpoint.latest(root, fall_back)


def _resume(folder: Path | None, model: POA, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint, if there is one, and return its state."""
    if folder is None:
        return {"step": 0}
    state = checkpoint.load(folder, model, optimizer)
    if model.fp16_scaler is not None and state.get("scaler"):
        model.fp16_scaler.load_state_dict(state["scaler"])
    if int(model.step) != state["step"]:
        raise UserError(f"'{folder}' disagrees with itself: step {int(model.step)} and {state}.")
    print(f"Resuming from '{folder}'.")
    return state


def _save(run: Path, model: POA, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    train = model.config.train
    model.step.fill_(state["step"])
    multiples = train.keep_every * train.checkpoint_period
    checkpoint.save(run / "ckpt", model, optimizer, state, train.keep_checkpoints, multiples)


def _scaler_state(model: POA) -> dict[str, Any] | None:
    return model.fp16_scaler.state_dict() if model.fp16_scaler is not None else None


def _too_many(run: Path, limit: int, wrong: Sequence[str], step: int) -> str:
    return (
        f"The loss was not finite in {limit} steps in a row ({', '.join(wrong)}). The weights are those "
        f"from before them, saved as '{run / 'ckpt' / str(step)}'; '{run / 'skipped_steps.jsonl'}' lists "
        f"the images. Lower optim.base_lr or use train.precision=fp32, with train.accept_changes=true."
    )
