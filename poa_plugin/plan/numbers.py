"""A recipe's numbers: memory of a device by part, host memory, steps, work and traffic."""

from __future__ import annotations

from dataclasses import dataclass

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.plan.devices import Device
from poa_plugin.plan.trace import (
    ACTIVATIONS,
    CROPS,
    GRADIENTS,
    HEADS,
    KEPT,
    Pass,
    ShardTrace,
    trace_shard,
)
from poa_plugin.ssl.memory import MOMENTS, crop_pixels, kept_features, waiting_crops
from poa_plugin.train.schedules import Schedules

LIBRARIES = {True: 1_000_000_000, False: 720_000_000}
"""Bytes beside tensors, by whether the device is a GPU: its context and its libraries' workspaces (assumed, not
measured), or torch and torchvision in a process (measured)."""

PREFETCH = 2
"""Shards that each worker process makes ahead."""


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
        UserError: shards cannot be spread evenly over the ranks.
    """
    shards = config.train.shards
    if shards % ranks:
        nearest = max(n for n in range(1, min(ranks, shards) + 1) if shards % n == 0)
        raise UserError(
            f"--ranks is {ranks}, and the {shards} shards of train.shards cannot be spread evenly over them: "
            f"{nearest} can take {shards // nearest} each."
        )
    trace = trace_shard(config, device.is_gpu)
    parts, peak_pass = _device_parts(config, trace, shards // ranks, device.is_gpu)
    host = {"waiting crops": waiting_crops(config, shards // ranks)}
    if config.data.num_workers:
        host["decoded ahead"] = config.data.num_workers * PREFETCH * crop_pixels(config)
    return Numbers(
        parts=parts,
        peak_pass=peak_pass,
        host=host,
        steps=Schedules(config).total_steps,
        shards=shards,
        images=shards * config.train.batch_size_per_shard,
        parameters=trace.parameters,
        flops=shards * trace.flops,
        ranks=ranks,
        traffic=_traffic(config, trace, ranks) if ranks > 1 else {},
    )


def _device_parts(
    config: Config, trace: ShardTrace, shards: int, on_gpu: bool
) -> tuple[dict[str, int], str]:
    """Return the bytes at the peak of a step by part, and the name of the pass in which it is."""
    peak = max(trace.passes, key=lambda of_pass: of_pass.peak)
    optimizer = Pass("optimizer's step")
    optimizer.parts[GRADIENTS] = trace.gradient_bytes
    peak = max(peak, optimizer, key=lambda of_pass: of_pass.peak)
    others = (shards - 1) * kept_features(config, trace.teacher_rows)
    parts = {
        "student": 4 * trace.parameters,
        "teacher": 4 * trace.parameters + trace.buffer_bytes,
        "moments": MOMENTS * trace.gradient_bytes // 4,
        "gradients": peak.parts[GRADIENTS],
        "activations": peak.parts[ACTIVATIONS],
        "heads": peak.parts[HEADS],
        "kept features": peak.parts[KEPT] + others,
        "crops": peak.parts[CROPS] + (crop_pixels(config) if on_gpu else 0),
        "libraries": LIBRARIES[on_gpu],
    }
    return parts, peak.name


def _traffic(config: Config, trace: ShardTrace, ranks: int) -> dict[str, int]:
    """Return the bytes that a rank sends in a step: of N, (N - 1) / N of what is joined, gradients twice."""
    others = (ranks - 1) / ranks
    traffic = {"gradients": int(2 * trace.gradient_bytes * others)}
    if config.train.centering == "sinkhorn_knopp":
        log_sums = 4 * config.train.shards * sum(config.dino.head_n_prototypes)
        traffic["Sinkhorn-Knopp"] = int(2 * 3 * log_sums * others)
    return traffic
