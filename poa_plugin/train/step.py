"""One step of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from poa_plugin.elastic import Subnet
from poa_plugin.ssl import POA
from poa_plugin.train.agreement import Requests, Step, agree
from poa_plugin.train.gradients import clip_gradients, unscale
from poa_plugin.train.optim import apply_schedule
from poa_plugin.train.schedules import Values
from poa_plugin.train.skipping import GRADIENT


def train_step(
    model: POA,
    optimizer: torch.optim.Optimizer,
    shards: Iterable[Mapping[str, Any]],
    values: Values,
    subnets: Sequence[Subnet],
    requests: Callable[[], Requests] = Requests,
) -> Step:
    """Run one step: gradients of all branches, clipping, AdamW, and the teacher's average.

    A step in which the loss, a gradient or a scheduled value is not finite leaves weights, moments and the
    teacher untouched; it is counted. A gradient that overflows at the fp16 scaler's scale is one of
    these; the scaler lowers it then. Whether a step is skipped, all ranks decide alike.

    Args:
        model: the meta-architecture.
        optimizer: of its students.
        shards: the batches of this process's shards.
        values: of the schedules.
        subnets: the elastic students of these shards.
        requests: what this rank asks of the others; called after the backward pass.
    """
    apply_schedule(optimizer, values)
    optimizer.zero_grad(set_to_none=True)
    terms = model.forward_backward(shards, values.teacher_temp, subnets)
    scaler = model.fp16_scaler
    if scaler is not None:
        unscale(scaler, optimizer)
    norms = clip_gradients(model.student, model.config.optim.clip_grad)
    gradients = {f"{GRADIENT}{name}": norm for name, norm in norms.items()}
    step = agree(terms, model.terms_by_head, gradients, requests())
    non_finite = step.non_finite + _not_finite_settings(optimizer, values)
    entered_with = scaler_state(model) if non_finite else None
    if non_finite:
        model.skip_step()
    else:
        optimizer.step() if scaler is None else scaler.step(optimizer)
        model.update_teacher(values.momentum)
    if scaler is not None:
        scaler.update()
    norms_by_name = {name.removeprefix(GRADIENT): norm for name, norm in step.norms.items()}
    return step._replace(norms=norms_by_name, non_finite=non_finite, scaler=entered_with)


def _not_finite_settings(optimizer: torch.optim.Optimizer, values: Values) -> list[str]:
    """Return the names of scheduled values, and of settings computed from them, that are not finite."""
    groups = [group[key] for group in optimizer.param_groups for key in ("lr", "weight_decay")]
    non_finite = [name for name, value in asdict(values).items() if not math.isfinite(value)]
    if not non_finite and not all(map(math.isfinite, groups)):
        non_finite = ["lr or weight_decay of a parameter group"]
    return non_finite


def scaler_state(model: POA) -> dict[str, Any] | None:
    """Return the state of the fp16 gradient scaler, if there is one."""
    return model.fp16_scaler.state_dict() if model.fp16_scaler is not None else None
