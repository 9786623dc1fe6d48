"""The optimizer's moments of a published training checkpoint, under parameter names.

There a moment has a number in the place of a name: parameters are numbered through the groups, which
are made for the backbone and for the heads each by itself, in the order in which their first
parameter stands in the module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.interop.contents import Checkpoint

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
Setting = tuple[float, float, bool]


def named_moments(
    checkpoint: Checkpoint, settings: Mapping[str, Setting], shapes: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """Return the moments of the student's parameters by our names.

    Args:
        checkpoint: with an optimizer.
        settings: lr_multiplier, wd_multiplier and is_last_layer of our parameters.
        shapes: of our parameters.

    Raises:
        UserError: the groups are not those that these settings make, or a moment is misshapen.
    """
    optimizer = checkpoint.optimizer or {}
    numbers = _numbers(checkpoint, settings)
    moments: dict[str, dict[str, Tensor]] = {}
    for number, state in optimizer.get("state", {}).items():
        if number not in numbers:
            raise _other_groups(checkpoint, f"a state '{number}' that is in no group")
        name = numbers[number]
        if name not in settings:
            continue  # a moment of a part that was left out
        if absent := [key for key in MOMENTS if key not in state]:
            raise _other_groups(checkpoint, f"no {absent[0]} for '{name}', so it is no Adam's")
        moments[name] = {key: torch.as_tensor(state[key], dtype=torch.float32) for key in MOMENTS}
        for key in MOMENTS[1:]:
            if checkpoint.flat and moments[name][key].numel() == math.prod(shapes[name]):
                moments[name][key] = moments[name][key].reshape(shapes[name])
            if moments[name][key].shape != shapes[name]:
                found, wanted = tuple(moments[name][key].shape), tuple(shapes[name])
                raise _other_groups(checkpoint, f"a {key} of {found} for '{name}', not of {wanted}")
            moments[name][key] = checkpoint.format.convert(name, moments[name][key])
    return moments


def _numbers(checkpoint: Checkpoint, settings: Mapping[str, Setting]) -> dict[int, str]:
    groups: dict[tuple[str, Setting], list[str]] = {}
    for name in checkpoint.student_order:
        setting = settings.get(name) or _setting_of_a_head(name)
        groups.setdefault((name.partition(".")[0], setting), []).append(name)
    theirs = (checkpoint.optimizer or {}).get("param_groups", [])
    if len(theirs) != len(groups):
        raise _other_groups(checkpoint, f"{len(theirs)} groups, not {len(groups)}")
    numbers: dict[int, str] = {}
    for group, ((_, setting), names) in zip(theirs, groups.items(), strict=True):
        if len(group["params"]) != len(names):
            count = len(group["params"])
            raise _other_groups(
                checkpoint, f"{count} parameters where '{names[0]}' is one of {len(names)}"
            )
        for key, ours in (("lr_multiplier", setting[0]), ("wd_multiplier", setting[1])):
            value = group.get(key, ours)
            if not math.isclose(value, ours, rel_tol=1e-6):
                raise _other_groups(checkpoint, f"{key} {value:g} where '{names[0]}' has {ours:g}")
        numbers |= dict(zip(group["params"], names, strict=True))
    return numbers


def _setting_of_a_head(name: str) -> Setting:
    """Return the setting of a left-out head's parameter."""
    return 1.0, 0.0 if name.endswith(".bias") else 1.0, "last_layer" in name


def _other_groups(checkpoint: Checkpoint, found: str) -> UserError:
    return UserError(
        f"The optimizer in '{checkpoint.file}' does not fit: it has {found}; give the run's own "
        f"optim.layerwise_decay and optim.patch_embed_lr_mult with --config, or leave the moments "
        f"out with --drop optimizer."
    )
