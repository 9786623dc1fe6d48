"""AdamW over the meta-architecture's groups, with scheduled rates and clipping by sub-module."""

from __future__ import annotations

from typing import Any

import torch

from poa_plugin.config.schema import Config
from poa_plugin.train.schedules import Values


def build_optimizer(groups: list[dict[str, Any]], config: Config) -> torch.optim.AdamW:
    """Return AdamW over `groups` (see `POA.get_params_groups`)."""
    optim = config.optim
    return torch.optim.AdamW(
        groups, lr=0.0, weight_decay=0.0, betas=(optim.adamw_beta1, optim.adamw_beta2), fused=True
    )


def apply_schedule(optimizer: torch.optim.Optimizer, values: Values) -> None:
    """Set every group's learning rate and weight decay for one step."""
    for group in optimizer.param_groups:
        lr = values.last_layer_lr if group["is_last_layer"] else values.lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]
