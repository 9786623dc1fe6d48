"""A recipe's numbers: memory of a device by part, host memory, steps, work and traffic."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.plan.devices import Device
from poa_plugin.plan.distribution import Distribution, other_traffic, replicated, sharded
from poa_plugin.plan.trace import (
    ACTIVATIONS,
    CROPS,
    GRADIENTS,
    HEADS,
    KEPT,
    Pass,
    ShardTrace,
    meta_model,
    trace_shard,
)
from poa_plugin.ranks import nearest_ranks
from poa_plugin.ssl.memory import crop_pixels, kept_features, waiting_crops
from poa_plugin.train.parallel import Parallel, choose_parallel
from poa_plugin.train.schedules import Schedules

LIBRARIES = {True: 1_000_000_000, False: 720_000_000}
"""Bytes beside tensors, by whether the device is a GPU: its context and its libraries' workspaces (assumed, not
measured), or torch and torchvision in a process (measured)."""

PREFETCH = 2
"""Shards that each worker process makes ahead."""

GATHERED = "gathered"

_TRACES: dict[str, ShardTrace] = {}
"""By what a trace depends on: advice tries recipes whose shards are alike."""


@dataclass(frozen=True)
class Numbers:
    """What a recipe takes on each of some ranks.

    Attributes:
        parts: bytes of the device by what they are for, at the peak of a step.
        peak_pass: in which that is.
        host: bytes of the host beside those on the device, by what they are for.
        steps, shards, images: of the run; of a step; of a step.
        parameters: that are trained.
        flops: of a step; a multiplication and an addition are two.
        ranks: processes, with a device each.
        parallel: how the model is distributed over them, and why.
        traffic: bytes that a rank sends in a step, by what they are for; nothing on one rank.
    """

    parts: dict[str, int]
    peak_pass: str
    host: dict[str, int]
    steps: int
    shards: int
    images: int
    parameters: int
    flops: float
    ranks: int
    parallel: Parallel
    traffic: dict[str, int]

    @property
    def device_bytes(self) -> int:
        """Of the device at the peak."""
        return sum(self.parts.values())

    def bytes_needed(self, device: Device) -> int:
        """Return what has to fit into a device's memory: on a CPU, the host's too."""
        return self.device_bytes + (0 if device.is_gpu else sum(self.host.values()))

    def hours(self, flops_per_second: float) -> float:
        """Return the hours of the run at a speed of each rank."""
        return self.flops * self.steps / self.ranks / flops_per_second / 3600


def count(config: Config, device: Device, ranks: int = 1) -> Numbers:
    """Return a recipe's numbers; nothing is allocated.

    Raises:
        UserError: shards cannot be spread evenly over the ranks, or `train.parallel` forbids several.
    """
    check_ranks(config, ranks)
    shards = config.train.shards // ranks
    model = meta_model(config)
    n_parameters = sum(p.numel() for p in model.student.parameters())
    memory = device.memory if device.is_gpu else None
    parallel = choose_parallel(config, n_parameters, ranks, memory)
    distribute = sharded if parallel.kind == "fsdp2" else replicated
    distribution = distribute(model, ranks, shards)
    trace = _trace(config, parallel.kind == "fsdp2", device.is_gpu)
    parts, peak_pass = _device_parts(config, trace, distribution, shards, device.is_gpu)
    host = {"waiting crops": waiting_crops(config, shards)}
    if config.data.num_workers:
        host["decoded ahead"] = config.data.num_workers * PREFETCH * crop_pixels(config)
    others = other_traffic(model, config, ranks) if ranks > 1 else {}
    return Numbers(
        parts=parts,
        peak_pass=peak_pass,
        host=host,
        steps=Schedules(config).total_steps,
        shards=config.train.shards,
        images=config.train.shards * config.train.batch_size_per_shard,
        parameters=trace.parameters,
        flops=config.train.shards * trace.flops,
        ranks=ranks,
        parallel=parallel,
        traffic={**distribution.traffic, **others},
    )


def check_ranks(config: Config, ranks: int) -> None:
    """Check that the shards of a step can be spread evenly over some ranks.

    Raises:
        UserError: they cannot; the nearest numbers that can are named.
    """
    shards = config.train.shards
    if shards % ranks:
        nearest = nearest_ranks(shards, ranks)
        counts = " or ".join(map(str, nearest))
        raise UserError(
            f"--ranks is {ranks}, and the {shards} shards of train.shards cannot be spread evenly over them: "
            f"{counts} can take equal numbers; a multiple of {ranks} shards is another experiment."
        )


def _trace(config: Config, joint_students: bool, on_gpu: bool) -> ShardTrace:
    """Return what a shard takes; `joint_students`: in one pass, whatever is configured."""
    config = copy.deepcopy(config)
    train = config.train
    train.joint_students = train.joint_students or joint_students
    train.shards, train.parallel, train.reduce, train.reshard_after_forward = (
        1,
        "auto",
        "step",
        True,
    )
    key = f"{on_gpu} {config!r}"
    if key not in _TRACES:
        _TRACES[key] = trace_shard(config, on_gpu)
    return _TRACES[key]


def _device_parts(
    config: Config, trace: ShardTrace, distribution: Distribution, shards: int, on_gpu: bool
) -> tuple[dict[str, int], str]:
    """Return the bytes at the peak of a step by part, and the name of the pass in which it is."""
    peak = max(_passes(trace, distribution), key=lambda of_pass: of_pass.peak)
    others = (shards - 1) * kept_features(config, trace.teacher_rows)
    parts = {
        "student": distribution.weights,
        "teacher": distribution.weights + trace.buffer_bytes,
        "moments": distribution.moments,
        GATHERED: peak.parts[GATHERED],
        "gradients": peak.parts[GRADIENTS],
        "activations": peak.parts[ACTIVATIONS],
        "heads": peak.parts[HEADS],
        "kept features": peak.parts[KEPT] + others,
        "crops": peak.parts[CROPS] + (crop_pixels(config) if on_gpu else 0),
        "libraries": LIBRARIES[on_gpu],
    }
    if not distribution.teacher_gathered:
        del parts[GATHERED]
    return parts, peak.name


def _passes(trace: ShardTrace, distribution: Distribution) -> list[Pass]:
    """Return the passes of a step with a rank's gathered weights and gradients, and the optimizer's step."""
    teacher, *students = trace.passes
    gathering = Pass(
        teacher.name, teacher.parts + Counter({GATHERED: distribution.teacher_gathered})
    )
    passes = [gathering]
    for student in students:
        parts = student.parts + Counter({GATHERED: distribution.gathered})
        if distribution.gradients is not None:
            parts[GRADIENTS] = distribution.gradients
        passes.append(Pass(student.name, parts))
    at_step = Counter({GRADIENTS: distribution.gradients_at_step})
    return [*passes, Pass("optimizer's step", at_step)]
