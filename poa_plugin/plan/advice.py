"""Which switches make a recipe fit that does not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

from poa_plugin.config.schema import Config
from poa_plugin.plan.devices import Device
from poa_plugin.plan.numbers import Numbers, count

SMALLEST_CHUNK = 256


class Change(NamedTuple):
    """A recipe that takes less, and what else is different in it.

    Attributes:
        overrides: as `poa train` takes them.
        config: with these.
        note: what they change.
    """

    overrides: tuple[str, ...]
    config: Config
    note: str


class Advice(NamedTuple):
    """A change that makes a recipe fit, and its numbers."""

    change: Change
    numbers: Numbers


def first_that_fits(config: Config, numbers: Numbers, device: Device) -> Advice | None:
    """Return the first change after which a recipe fits into a device's memory; None if there is none.

    Args:
        config: a resolved configuration.
        numbers: of it.
        device: that it does not fit.
    """
    ranks, heads = numbers.ranks, numbers.parts["heads"]
    short = numbers.bytes_needed(device) - device.memory
    for change in changes(config, with_chunks=heads > short):
        changed = count(change.config, device, ranks)
        if changed.bytes_needed(device) <= device.memory:
            return Advice(change, changed)
        if sum(changed.parts[name] for name in ("student", "teacher", "moments")) > device.memory:
            return None
    return None


def changes(config: Config, with_chunks: bool) -> Iterator[Change]:
    """Yield changes that each take less memory than the one before, those that change no result first.

    Args:
        config: a resolved configuration.
        with_chunks: whether narrower chunks of prototypes may suffice.
    """
    config, overrides, notes = copy.deepcopy(config), list[str](), list[str]()
    train = config.train
    if train.joint_students:
        train.joint_students = False
        overrides.append("train.joint_students=false")
        notes.append("the same experiment")
        yield Change(tuple(overrides), copy.deepcopy(config), notes[-1])
    if with_chunks and (train.prototype_chunk or SMALLEST_CHUNK + 1) > SMALLEST_CHUNK:
        chunked = copy.deepcopy(config)
        chunked.train.prototype_chunk = SMALLEST_CHUNK
        override = f"train.prototype_chunk={SMALLEST_CHUNK}"
        yield Change((*overrides, override), chunked, "the same experiment, slower heads")
    if train.precision == "fp32":
        train.precision = "bf16"
        overrides.append("train.precision=bf16")
        notes.append("the same experiment in lower precision")
        yield Change(tuple(overrides), copy.deepcopy(config), notes[-1])
    while train.batch_size_per_shard % 2 == 0 and train.shards * 2 <= 2**16:
        train.batch_size_per_shard //= 2
        train.shards *= 2
        sizes = (
            f"train.shards={train.shards}",
            f"train.batch_size_per_shard={train.batch_size_per_shard}",
        )
        note = (
            "another experiment of as many images a step: KoLeo and the strata of masks are each shard's, and "
            "each shard has an elastic student"
        )
        yield Change((*overrides, *sizes), copy.deepcopy(config), note)
