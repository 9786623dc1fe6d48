"""Devices to plan for: memory, and the fastest that they multiply matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch

from poa_plugin.config.schema import Config
from poa_plugin.device import resolve_device
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.memory import total_memory

G, T = 10**9, 10**12


class Device(NamedTuple):
    """A device.

    Attributes:
        name: for people.
        memory: in bytes.
        peaks: FLOP/s with float32 and with half-precision factors, dense, float32 sums; None if not known.
        is_gpu: or else the memory is the host's, too.
    """

    name: str
    memory: int
    peaks: tuple[float, float] | None
    is_gpu: bool

    def peak(self, precision: str) -> float | None:
        """Return the FLOP/s of a precision as `train.precision` names it."""
        return self.peaks and self.peaks[precision != "fp32"]


GPUS = {
    "a10g": Device("A10G", 24 * G, (35.0 * T, 70.0 * T), True),
    "l4": Device("L4", 24 * G, (30.3 * T, 121.0 * T), True),
    "rtx3090": Device("RTX 3090", 24 * G, (35.6 * T, 71.0 * T), True),
    "rtx4090": Device("RTX 4090", 24 * G, (82.6 * T, 165.2 * T), True),
    "a100-40g": Device("A100", 40 * G, (19.5 * T, 312.0 * T), True),
    "l40s": Device("L40S", 48 * G, (91.6 * T, 362.0 * T), True),
    "a100-80g": Device("A100", 80 * G, (19.5 * T, 312.0 * T), True),
    "h100": Device("H100", 80 * G, (67.0 * T, 989.0 * T), True),
    "h200": Device("H200", 141 * G, (67.0 * T, 989.0 * T), True),
}
"""From the makers' data sheets, nominal memory. Float32 is without TF32, which is torch's default."""


def device_to_plan(config: Config, name: str | None, memory: int | None) -> Device:
    """Return a GPU of the table, one of so much memory, or this machine's device if neither is given.

    Args:
        config: its `train.device` says what kind the device is.
        name: in `GPUS`.
        memory: in bytes; of a GPU, unless `train.device` is `cpu`.

    Raises:
        UserError: there is no such name, or the recipe is for a CPU.
    """
    if name is not None:
        if name.lower() not in GPUS:
            raise UserError(f"--device is '{name}': {did_you_mean(name, GPUS)}.")
        if config.train.device == "cpu":
            raise UserError(f"--device is '{name}', a GPU, and train.device is 'cpu': drop one.")
        gpu = GPUS[name.lower()]
        return gpu if memory is None else gpu._replace(memory=memory)
    if memory is not None:
        is_gpu = config.train.device != "cpu"
        return Device("a GPU" if is_gpu else "a CPU", memory, None, is_gpu)
    here = resolve_device(config.train.device)
    is_gpu = here.type == "cuda"
    label = torch.cuda.get_device_name(here) if is_gpu else "the CPU of this machine"
    return Device(label, total_memory(here), None, is_gpu)
