"""Which switches make a recipe fit that does not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from poa_plugin.config.schema import Config
from poa_plugin.plan.devices import Device
from poa_plugin.plan.numbers import Numbers, count

SMALLEST_CHUNK = 256
MOST_RANKS = 64
"""Ranks that are advised: beyond, shards of weights are small beside activations."""

SAME = "the same experiment"
RECOMPUTED = f"{SAME}; blocks are run again in the backward pass, about a quarter more work"


class Change(NamedTuple):
    """A recipe that takes less, and what else is different in it.

    Attributes:
        overrides: as `poa train` takes them.
        config: with these.
        note: what they change.
        ranks: to train on.
    """

    overrides: tuple[str, ...]
    config: Config
    note: str
    ranks: int

    def then(self, note: str, ranks: int | None = None, **train: Any) -> Change:
        """Return this change and others of the section `train`."""
        config = copy.deepcopy(self.config)
        overrides = {override.split("=")[0]: override for override in self.overrides}
        for key, value in train.items():
            setattr(config.train, key, value)
            text = str(value).lower() if isinstance(value, bool) else value
            overrides[f"train.{key}"] = f"train.{key}={text}"
        return Change(tuple(overrides.values()), config, note, ranks or self.ranks)


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
    short = numbers.bytes_needed(device) - device.memory
    least, least_bytes = Change((), config, SAME, numbers.ranks), numbers.bytes_needed(device)
    for change in same_results(least, device, with_chunks=numbers.parts["heads"] > short):
        changed = count(change.config, device, change.ranks)
        needed = changed.bytes_needed(device)
        if needed <= device.memory:
            return Advice(change, changed)
        if change.ranks == numbers.ranks and needed < least_bytes:
            least, least_bytes = change, needed
    for change in other_results(least):
        changed = count(change.config, device, change.ranks)
        if changed.bytes_needed(device) <= device.memory:
            return Advice(change, changed)
        if sum(changed.parts[name] for name in ("student", "teacher", "moments")) > device.memory:
            return None
    return None


def same_results(unchanged: Change, device: Device, with_chunks: bool) -> Iterator[Change]:
    """Yield changes of what computes the same experiment, the cheapest first.

    Args:
        unchanged: the recipe.
        device: to train on.
        with_chunks: whether narrower chunks of prototypes may suffice.
    """
    change = unchanged
    train = change.config.train
    if train.joint_students:
        change = change.then(SAME, joint_students=False)
        yield change
    if with_chunks and (train.prototype_chunk or SMALLEST_CHUNK + 1) > SMALLEST_CHUNK:
        yield change.then(f"{SAME}, slower heads", prototype_chunk=SMALLEST_CHUNK)
    yield from _other_kinds(change, change.note)
    if not train.activation_checkpointing:
        change = change.then(RECOMPUTED, activation_checkpointing=True)
        yield change
        yield from _other_kinds(change, change.note)
    for ranks in range(change.ranks + 1, min(train.shards, MOST_RANKS) + 1):
        if train.shards % ranks == 0 and device.is_gpu:
            more = change.then(f"{change.note}; on {ranks} devices", ranks)
            yield more
            yield from _other_kinds(more, more.note)


def other_results(change: Change) -> Iterator[Change]:
    """Yield changes of an experiment that each take less memory than the one before.

    Args:
        change: the recipe, with what makes it take less and changes no result.
    """
    if change.config.train.precision == "fp32":
        change = change.then(f"{SAME} in lower precision", precision="bf16")
        yield change
    train = change.config.train
    shards, images = train.shards, train.batch_size_per_shard
    note = (
        "another experiment of as many images a step: KoLeo and the strata of masks are each shard's, and "
        "each shard has an elastic student"
    )
    while images % 2 == 0 and shards * 2 <= 2**16:
        images //= 2
        shards *= 2
        yield change.then(note, shards=shards, batch_size_per_shard=images)


def _other_kinds(change: Change, note: str) -> Iterator[Change]:
    """Yield the ways to distribute a model over ranks that are not configured."""
    if change.ranks > 1:
        for kind in ("replicate", "fsdp2"):
            if change.config.train.parallel != kind:
                yield change.then(note, parallel=kind)
