"""Schedules as functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from poa_plugin.config.schema import Config


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up that includes both its ends, then half a cosine (DINOv2 `utils/utils.py`).

    Args:
        base: the value when the warm-up ends.
        final: the value the cosine tends to; also held after its end.
        total: steps of the whole schedule, warm-up included.
        warmup: steps of the warm-up.
        start: the value at step 0 if there is a warm-up.
    """

    base: float
    final: float
    total: int
    warmup: int = 0
    start: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the value at a step >= 0."""
        if step < self.warmup:
            return self.start + (self.base - self.start) * step / max(self.warmup - 1, 1)
        if step >= self.total:
            return self.final
        turn = math.pi * (step - self.warmup) / (self.total - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(turn))


@dataclass(frozen=True)
class Values:
    """All scheduled values of one step."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


class Schedules:
    """The schedules of a recipe.

    `optim.iter_num_scale` s stretches the cosines of learning rate, weight decay and momentum to
    total / s steps; training stops at `total`, so that they do not reach their ends (published code).

    Args:
        config: a resolved configuration.
    """

    def __init__(self, config: Config) -> None:
        optim, teacher = config.optim, config.teacher
        epoch = config.train.OFFICIAL_EPOCH_LENGTH
        self.total_steps = optim.epochs * epoch
        stretched = int(self.total_steps / optim.iter_num_scale)
        self.lr = Cosine(
            base=scaled_lr(config),
            final=optim.min_lr,
            total=stretched,
            warmup=optim.warmup_epochs * epoch,
        )
        self.weight_decay = Cosine(optim.weight_decay, optim.weight_decay_end, stretched)
        self.momentum = Cosine(teacher.momentum_teacher, teacher.final_momentum_teacher, stretched)
        self.teacher_temp = Cosine(
            base=teacher.teacher_temp,
            final=teacher.teacher_temp,
            total=self.total_steps,
            warmup=teacher.warmup_teacher_temp_epochs * epoch,
            start=teacher.warmup_teacher_temp,
        )
        self.frozen_steps = optim.freeze_last_layer_epochs * epoch

    def __call__(self, step: int) -> Values:
        """Return the values of a step."""
        lr = self.lr(step)
        return Values(
            lr=lr,
            last_layer_lr=0.0 if step < self.frozen_steps else lr,
            weight_decay=self.weight_decay(step),
            momentum=self.momentum(step),
            teacher_temp=self.teacher_temp(step),
        )


def scaled_lr(config: Config) -> float:
    """Return the peak learning rate: `base_lr` * sqrt(batch / 1024) over all shards (POA section 4.1)."""
    if config.optim.scaling_rule == "none":
        return config.optim.base_lr
    batch = config.train.batch_size_per_shard * config.train.shards
    return config.optim.base_lr * math.sqrt(batch / 1024)
