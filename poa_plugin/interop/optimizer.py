"""The optimizer of a training checkpoint: its moments under parameter names, and what it proves of the recipe.

In the files a moment has a number in place of a name: parameters are numbered through the groups, which
are made for the backbone and for the heads each by itself, in the order in which their first
parameter stands in the module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop.checkpoint import Checkpoint
from poa_plugin.interop.formats import reorder_merged
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.train.schedules import Schedules

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
Setting = tuple[float, float, bool]


def optimizer_settings(optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the configuration that an optimizer's state dict proves, by dotted keys."""
    betas = next((group["betas"] for group in _groups(optimizer) if "betas" in group), None)
    if not isinstance(betas, (list, tuple)) or len(betas) != 2:
        return {}  # another optimizer's
    return {f"optim.adamw_beta{i}": float(beta) for i, beta in enumerate(betas, start=1)}


def compare_schedules(
    optimizer: Mapping[str, Any] | None, iteration: int, config: Config
) -> list[str]:
    """Compare what the optimizer was set to at its last iteration with the schedules of a configuration.

    Args:
        optimizer: the state dict; its groups carry `lr_multiplier` and `wd_multiplier`.
        iteration: the last one that was finished.
        config: of the run that is made.

    Returns:
        A warning for each value that differs.
    """
    values = Schedules(config)(iteration)
    return [
        f"Warning: the checkpoint's {name} at iteration {iteration} is {stored:.6g}, where this "
        f"configuration gives {scheduled:.6g}: the run had another batch, length or schedule; set its "
        f"keys with --config."
        for name, stored, scheduled in (
            ("learning rate", _unscaled(optimizer, "lr", "lr_multiplier"), values.lr),
            (
                "weight decay",
                _unscaled(optimizer, "weight_decay", "wd_multiplier"),
                values.weight_decay,
            ),
        )
        if stored is not None and not math.isclose(stored, scheduled, rel_tol=1e-5, abs_tol=1e-12)
    ]


def named_moments(
    checkpoint: Checkpoint, student: nn.ModuleDict, config: Config
) -> dict[str, dict[str, Tensor]]:
    """Return the moments of the student's parameters by our names.

    Args:
        checkpoint: with an optimizer.
        student: whose parameters they are of.
        config: whose `optim.layerwise_decay` and `optim.patch_embed_lr_mult` make the groups.

    Raises:
        UserError: the groups are not those that these settings make, or a moment is misshapen.
    """
    optim = config.optim
    settings = parameter_settings(student, optim.layerwise_decay, optim.patch_embed_lr_mult)
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    numbers = _numbers(checkpoint, settings)
    moments: dict[str, dict[str, Tensor]] = {}
    for number, state in (checkpoint.optimizer or {})["state"].items():
        name = numbers.get(number)
        if name is None or not set(MOMENTS) <= set(state):
            raise _misfit(checkpoint, f"a state '{number}' of no parameter, or not of AdamW")
        if name not in settings:
            continue  # a moment of a part that was left out
        moments[name] = {"step": torch.as_tensor(state["step"], dtype=torch.float32)}
        for key in MOMENTS[1:]:
            moment = torch.as_tensor(state[key], dtype=torch.float32)
            if checkpoint.is_flat and moment.numel() == math.prod(shapes[name]):
                moment = moment.reshape(shapes[name])
            if moment.shape != shapes[name]:
                shape, expected = tuple(moment.shape), tuple(shapes[name])
                raise _misfit(checkpoint, f"a {key} of {shape} for '{name}', not of {expected}")
            is_published = checkpoint.format.name == "poa"
            moments[name][key] = reorder_merged(name, moment) if is_published else moment
    return moments


def _numbers(checkpoint: Checkpoint, settings: Mapping[str, Setting]) -> dict[int, str]:
    """Return the names of our parameters by their numbers in the optimizer."""
    expected: dict[tuple[str, Setting], list[str]] = {}
    for name in checkpoint.student_order:
        of_dropped_head = (1.0, 0.0 if name.endswith(".bias") else 1.0, "last_layer" in name)
        setting = settings.get(name, of_dropped_head)
        expected.setdefault((name.partition(".")[0], setting), []).append(name)
    groups = _groups(checkpoint.optimizer)
    if len(groups) != len(expected):
        raise _misfit(checkpoint, f"{len(groups)} groups, not {len(expected)}")
    numbers: dict[int, str] = {}
    for group, ((_, setting), names) in zip(groups, expected.items(), strict=True):
        keys = ("lr_multiplier", "wd_multiplier")
        multipliers = [group.get(key, x) for key, x in zip(keys, setting[:2], strict=True)]
        if len(group["params"]) != len(names) or not np.allclose(
            multipliers, setting[:2], rtol=1e-6, atol=0
        ):
            raise _misfit(
                checkpoint,
                f"{len(group['params'])} parameters with the lr_multiplier and wd_multiplier {multipliers} "
                f"where '{names[0]}' is one of {len(names)} with {list(setting[:2])}",
            )
        numbers |= dict(zip(group["params"], names, strict=True))
    return numbers


def _misfit(checkpoint: Checkpoint, what: str) -> UserError:
    return UserError(
        f"The optimizer in '{checkpoint.file}' does not fit: it has {what}; set optim.layerwise_decay and "
        f"optim.patch_embed_lr_mult as the run had them with --config, or leave the moments out with --drop "
        f"optimizer."
    )


def _groups(optimizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    groups = (optimizer or {}).get("param_groups")
    return [g for g in groups if isinstance(g, Mapping)] if isinstance(groups, list) else []


def _unscaled(optimizer: Mapping[str, Any] | None, key: str, multiplier: str) -> float | None:
    """Return a value before the groups' multipliers; None if no group tells. Prototypes can be held still."""
    for group in _groups(optimizer):
        value, factor = group.get(key), group.get(multiplier)
        if _is_number(value) and _is_number(factor) and factor and not group.get("is_last_layer"):
            return float(value) / float(factor)
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number))
