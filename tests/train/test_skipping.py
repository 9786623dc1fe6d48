"""Steps that are skipped, runs without a good one, and broken weights, of which no checkpoint is made."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.ssl import POA
from poa_plugin.testing import random_batch
from poa_plugin.train import checkpoint
from poa_plugin.train.agreement import agree
from poa_plugin.train.loop import train
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.schedules import Schedules, Values
from poa_plugin.train.step import train_step
from tests.conftest import Make
from tests.train.test_loop import lines, timeless, weights


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the loss, or one gradient, NaN at some steps."""
    honest = POA.forward_backward

    def inject(*steps: int, gradient: bool = False) -> None:
        def poisoned(self: POA, *arguments: Any, **keywords: Any) -> dict[str, Tensor]:
            terms = honest(self, *arguments, **keywords)
            if int(self.step) in steps:
                if gradient:
                    next(self.student["backbone"].parameters()).grad.fill_(float("inf"))
                else:
                    terms["cross_view_intact_local"] = torch.tensor(float("nan"))
            return terms

        monkeypatch.setattr(POA, "forward_backward", poisoned)

    return inject


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "centering"])
def test_a_step_that_is_not_finite_is_skipped(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
    gradient: bool,
    centering: str,
) -> None:
    overrides = (
        f"train.centering={centering}",
        "train.checkpoint_period=1",
        "train.keep_checkpoints=0",
    )
    poison(2, 3, gradient=gradient)
    config, run = make(*overrides), tmp_path / "run"
    assert train(config).finished
    at = {
        step: checkpoint.load_tensors(run / f"ckpt/{step}" / checkpoint.MODEL)
        for step in checkpoint.steps(run / "ckpt")
    }
    assert list(at) == [1, 2, 5, 6]
    assert all(torch.isfinite(value).all() for values in at.values() for value in values.values())
    key = "student.backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(at[2][key], at[5][key])
    records = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 3]
    message = "gradient of backbone" if gradient else "cross_view_intact_local"
    assert records[0]["not_finite"] == [message]
    assert len(records[0]["image_ids"][0]) == config.train.batch_size_per_shard
    actual = lines(run)
    assert [line["skipped_steps"] for line in actual] == [0, 2, 0]
    assert actual[1]["loss"] is None
    assert actual[1]["terms"] == {}


def test_skipping_leaves_weights_moments_and_teacher_untouched(
    make: Make,
    poison: Callable[..., None],
    tmp_path: Path,
) -> None:
    poison(3, 4, 5)
    train(make("train.checkpoint_period=3", "train.keep_checkpoints=0"))
    root = tmp_path / "run/ckpt"
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        before, after = (checkpoint.load_tensors(root / step / name) for step in ("3", "6"))
        before.pop("step", None), after.pop("step", None)
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_too_many_in_a_row_end_the_run_at_its_last_good_state(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
) -> None:
    overrides = ("train.max_skipped_steps=3", "train.checkpoint_period=5")
    poison(1, 2, 3)
    run = tmp_path / "run"
    message = r"not finite in 3 steps in a row .*saved as '.*ckpt/1'"
    for _ in range(2):  # the same command meets the same steps
        with pytest.raises(UserError, match=message):
            train(make(*overrides))
        assert checkpoint.steps(run / "ckpt") == [1]
    model = build_model(make())
    optimizer = build_optimizer(model.get_params_groups(), make())
    assert checkpoint.load(run / "ckpt/1", model, optimizer)["step"] == int(model.step) == 1
    poison()
    assert train(make(*overrides)).finished
    train(make(*overrides, f"output_dir={tmp_path / 'whole'}"))
    assert timeless(lines(tmp_path / "whole")) == timeless(lines(run))
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert not (run / "skipped_steps.jsonl").read_text()


def test_a_run_that_is_stopped_among_skipped_steps_goes_on_before_them(
    make: Make,
    tmp_path: Path,
    poison: Callable[..., None],
) -> None:
    poison(1, 2)
    for _ in range(2):
        assert not train(make("train.max_minutes=1e-9")).finished
        assert checkpoint.steps(tmp_path / "run/ckpt") == [1]


def test_what_is_not_finite_is_named() -> None:
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    assert agree({"a": good, "b": good}, {}, {"c": good}).non_finite == []
    assert agree({"a": good, "b": bad}, {}, {"c": bad}).non_finite == ["b", "c"]


@pytest.mark.parametrize(
    "name", ["lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_schedule_that_is_not_finite(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    """From some step on: the weights from before it are saved, and stay."""
    honest = Schedules.__call__

    def wild(self: Schedules, step: int) -> Values:
        values = honest(self, step)
        return replace(values, **{name: value}) if step >= 2 else values

    monkeypatch.setattr(Schedules, "__call__", wild)
    with pytest.raises(UserError, match=rf"in 3 steps in a row \(.*{name}.*saved as '.*ckpt/2'"):
        train(make("train.max_skipped_steps=3"))
    assert checkpoint.steps(tmp_path / "run/ckpt") == [2]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("key", "value", "limit", "minutes", "message"),
    [
        ("optim.base_lr", float("nan"), 3, None, "lr"),
        ("optim.base_lr", float("nan"), 100, 1e-9, "lr"),
        ("teacher.teacher_temp", 0.0, 100, None, "cross_view"),
        ("loss.student_temp", 0.0, 3, 1e-9, "cross_view"),
        ("optim.layerwise_decay", float("nan"), 100, None, "of a parameter group"),
    ],
)
def test_a_run_without_one_good_step_is_a_failure(
    make: Make,
    tmp_path: Path,
    key: str,
    value: float,
    limit: int,
    minutes: float | None,
    message: str,
) -> None:
    config = make(f"train.max_skipped_steps={limit}", "teacher.warmup_teacher_temp_epochs=0")
    config.train.max_minutes = minutes
    OmegaConf.update(cast(DictConfig, config), key, value)
    steps = 1 if minutes else min(limit, 6)
    with pytest.raises(UserError, match=rf"in all {steps} steps \(.*{message}.*No checkpoint"):
        train(config)
    assert not checkpoint.steps(tmp_path / "run/ckpt")


@pytest.mark.parametrize(("held_by", "at"), [("student", 4), ("teacher", 6), ("moments", 6)])
def test_weights_that_are_broken_make_no_checkpoint(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_by: str, at: int
) -> None:
    """In the step before a checkpoint that is due, or before the end."""
    honest = torch.optim.AdamW.step

    def breaking(self: torch.optim.AdamW, *arguments: Any, **keywords: Any) -> Any:
        result = honest(self, *arguments, **keywords)
        first = self.param_groups[0]["params"][0]
        if int(self.state[first]["step"]) == at:
            broken = first if held_by == "student" else self.state[first]["exp_avg"]
            if held_by != "teacher":
                with torch.no_grad():
                    broken.fill_(float("nan"))
        return result

    def broken_teacher(self: POA, momentum: float) -> None:
        honest_update(self, momentum)
        if int(self.step) == at:
            next(self.teacher.parameters()).fill_(float("inf"))

    honest_update = POA.update_teacher
    monkeypatch.setattr(torch.optim.AdamW, "step", breaking)
    if held_by == "teacher":
        monkeypatch.setattr(POA, "update_teacher", broken_teacher)
    message = (
        rf"The weights are not finite after {at} steps \('.+'.*step {at - 2} remains the newest"
    )
    with pytest.raises(UserError, match=message):
        train(make())
    assert checkpoint.steps(tmp_path / "run/ckpt")[-1] == at - 2


HALF = (
    "train.precision=fp16",
    "train.OFFICIAL_EPOCH_LENGTH=8",
    "train.checkpoint_period=4",
    "train.max_skipped_steps=2",
)


def test_steps_that_the_gradient_scaler_skips(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted and written down; the first are a search, and end no run.

    A run that is stopped in the search, or right after it, goes on bit for bit.
    """
    uninterrupted, run = tmp_path / "whole", tmp_path / "run"
    assert train(make(*HALF, f"output_dir={uninterrupted}")).finished
    records = [
        json.loads(line)
        for line in (uninterrupted / "skipped_steps.jsonl").read_text().splitlines()
    ]
    n_skipped = len(records)
    assert 2 < n_skipped < 14
    assert [record["step"] for record in records] == list(range(n_skipped))
    assert [record["loss_scale"] for record in records] == [
        2.0 ** (16 - i) for i in range(n_skipped)
    ]
    assert all("gradient of dino_head" in record["not_finite"] for record in records)
    assert sum(line["skipped_steps"] for line in lines(uninterrupted)) == n_skipped

    honest, stops = POA.forward_backward, [3, n_skipped + 1]

    def stopping(self: POA, *arguments: Any, **keywords: Any) -> dict[str, Tensor]:
        if int(self.step) in stops:
            stops.remove(int(self.step))
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, *arguments, **keywords)

    monkeypatch.setattr(POA, "forward_backward", stopping)
    signals = [train(make(*HALF)).signal for _ in range(3)]
    assert signals == [signal.SIGTERM, signal.SIGTERM, None]
    actual, pieces = weights(uninterrupted), weights(run)
    assert actual.keys() == pieces.keys()
    assert all(torch.equal(value, pieces[key]) for key, value in actual.items())
    assert timeless(lines(uninterrupted)) == timeless(lines(run))


def test_a_step_that_the_gradient_scaler_skips_leaves_the_teacher(make: Make) -> None:
    config = make(*HALF)
    model = build_model(config)
    model.student.requires_grad_(True)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(1)
    before = {key: value.clone() for key, value in model.state_dict().items() if key != "step"}
    optimizer = build_optimizer(model.get_params_groups(), config)
    values = Schedules(config)(3)
    step = train_step(model, optimizer, [random_batch(config)], values, model.sample_subnets(1))
    assert step.non_finite == ["gradient of backbone", "gradient of dino_head"]
    assert step.scaler is not None and step.scaler["scale"] == 65536
    assert model.fp16_scaler is not None and model.fp16_scaler.get_scale() == 32768
    assert int(model.step) == 1
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert not optimizer.state


@pytest.mark.parametrize("first", [0, 13])
def test_a_gradient_that_always_overflows_ends_a_run_in_fp16(
    make: Make, tmp_path: Path, poison: Callable[..., None], first: int
) -> None:
    poison(*range(first, 40), gradient=True)
    message = "in all 19 steps" if first == 0 else r"in 2 steps in a row .*ckpt/13'"
    with pytest.raises(UserError, match=message):
        train(make(*HALF, "train.OFFICIAL_EPOCH_LENGTH=20"))
    assert checkpoint.steps(tmp_path / "run/ckpt") == [] if first == 0 else [4, 8, 12, 13]


def test_one_synchronization_a_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler's state is a value on the device: it is asked for only where a step was skipped."""
    asked: list[int] = []
    honest = torch.amp.GradScaler.state_dict
    monkeypatch.setattr(
        torch.amp.GradScaler, "state_dict", lambda self: asked.append(0) or honest(self)
    )
    config = make(*HALF)
    model = build_model(config)
    assert model.fp16_scaler is not None
    model.fp16_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    optimizer = build_optimizer(model.get_params_groups(), config)
    step = train_step(
        model, optimizer, [random_batch(config)], Schedules(config)(0), model.sample_subnets(1)
    )
    assert not step.non_finite
    assert not asked
