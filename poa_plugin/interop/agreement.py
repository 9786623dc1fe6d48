"""What the optimizer of a training checkpoint proves about the recipe by which it was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from poa_plugin.config.schema import Config
from poa_plugin.train.schedules import Schedules

EPS = 1e-8
"""AdamW's, here and in the published code."""


def optimizer_settings(optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the configuration that an optimizer's state dict proves, by dotted keys."""
    betas = _first(optimizer, "betas")
    if not isinstance(betas, (list, tuple)) or len(betas) != 2 or not all(map(_is_number, betas)):
        return {}
    return {"optim.adamw_beta1": float(betas[0]), "optim.adamw_beta2": float(betas[1])}


def compare_schedules(
    optimizer: Mapping[str, Any] | None, iteration: int, config: Config
) -> list[str]:
    """Compare what the optimizer was set to at its last iteration with the schedules of a configuration.

    Args:
        optimizer: the state dict; its groups carry `lr_multiplier` and `wd_multiplier`.
        iteration: the last one that was finished.
        config: of the run that is made.

    Returns:
        Sentences: that they agree, or a warning for each value that differs.
    """
    values = Schedules(config)(iteration)
    found = {
        "learning rate": (_scale(optimizer, "lr", "lr_multiplier"), values.lr),
        "weight decay": (_scale(optimizer, "weight_decay", "wd_multiplier"), values.weight_decay),
    }
    compared = {name: pair for name, pair in found.items() if pair[0] is not None}
    lines = [
        f"Warning: the checkpoint's {name} at iteration {iteration} is {there:.6g}, where this configuration "
        f"gives {here:.6g}: the run had another batch, length or schedule; set its keys with --config."
        for name, (there, here) in compared.items()
        if there is not None and not math.isclose(there, here, rel_tol=1e-5, abs_tol=1e-12)
    ]
    if compared and not lines:
        lines.append(
            f"The checkpoint's {' and '.join(compared)} at iteration {iteration} are this configuration's."
        )
    for key, value in optimizer_settings(optimizer).items():
        here = getattr(config.optim, key.partition(".")[2])
        if here != value:
            lines.append(f"Warning: {key} is {here}, and was {value} in the checkpoint.")
    eps = _first(optimizer, "eps")
    if isinstance(eps, float) and eps != EPS:
        lines.append(
            f"Warning: the optimizer's eps is {EPS} here, and was {eps} in the checkpoint."
        )
    return lines


def _groups(optimizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    groups = (optimizer or {}).get("param_groups")
    return [g for g in groups if isinstance(g, Mapping)] if isinstance(groups, list) else []


def _first(optimizer: Mapping[str, Any] | None, key: str) -> Any:
    return next((group[key] for group in _groups(optimizer) if key in group), None)


def _scale(optimizer: Mapping[str, Any] | None, key: str, multiplier: str) -> float | None:
    """Return a value before the groups' multipliers; None if no group tells. Prototypes can be held still."""
    for group in _groups(optimizer):
        value, factor = group.get(key), group.get(multiplier)
        if _is_number(value) and _is_number(factor) and factor and not group.get("is_last_layer"):
            return float(value) / float(factor)
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number))
