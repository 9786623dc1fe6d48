"""A plan as one screen, and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from poa_plugin.config.schema import Config
from poa_plugin.plan.advice import Advice
from poa_plugin.plan.devices import GPUS, Device
from poa_plugin.plan.measure import Measured
from poa_plugin.plan.numbers import Numbers


@dataclass(frozen=True)
class Plan:
    """A recipe on a device.

    Attributes:
        config: the recipe.
        device: it is planned for.
        numbers: of the recipe.
        advice: what makes it fit, if it does not.
        peak: FLOP/s of the device; None if not known.
        utilization: of it, from 0 to 1.
        measured: in place of both.
    """

    config: Config
    device: Device
    numbers: Numbers
    advice: Advice | None
    peak: float | None
    utilization: float
    measured: Measured | None

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.numbers.bytes_needed(self.device) <= self.device.memory

    @property
    def hours(self) -> float | None:
        """Of the run; None if nothing says how fast the device is."""
        if self.measured is not None:
            return self.numbers.hours(self.measured.flops_per_second)
        return None if self.peak is None else self.numbers.hours(self.utilization * self.peak)

    def text(self) -> str:
        """Return the plan as people read it."""
        n = self.numbers
        shard = _of(n.images // n.shards, "image")
        of = {
            "student": f"{n.parameters / 1e6:,.1f}M weights of backbone and heads, float32",
            "moments": "AdamW's two",
            "gathered": "whole weights of the blocks that run, and their copies",
            "activations": f"of {shard}, {n.peak_pass}, {self.config.train.precision}",
            "heads": "logits, losses, and what they keep",
            "kept features": f"the teacher's, of {_of(n.shards // n.ranks, 'shard')}",
            "libraries": "assumed" if self.device.is_gpu else "torch and torchvision",
        }
        rows = [self._heading(), *(_row(k, _gb(v), of.get(k, "")) for k, v in n.parts.items())]
        rows += [_row("device", _gb(n.device_bytes), "at the peak of a step")]
        where = "on the host" if self.device.is_gpu else "beside it, in the same memory"
        where += " of each rank" if n.ranks > 1 and self.device.is_gpu else ""
        rows += [_row(k, _gb(v), f"{where}, as uint8") for k, v in n.host.items()]
        return "\n".join([*rows, "", self._run(), *self._traffic(), self._time(), self.verdict()])

    def _heading(self) -> str:
        ranks, parallel = self.numbers.ranks, self.numbers.parallel
        each = f", each of {ranks}: {parallel.kind} ({parallel.reason})" if ranks > 1 else ""
        return f"{self.device.name} with {_gb(self.device.memory)}{each}"

    def _run(self) -> str:
        n = self.numbers
        return (
            f"{n.steps:,} steps of {n.images:,} images in {_of(n.shards, 'shard')}: {n.flops:.2e} FLOPs a "
            f"step, {n.flops * n.steps:.2e} in all"
        )

    def _traffic(self) -> list[str]:
        if not self.numbers.traffic:
            return []
        parts = ", ".join(f"{_gb(size)} {name}" for name, size in self.numbers.traffic.items())
        return [f"each rank sends {_gb(sum(self.numbers.traffic.values()))} a step: {parts}"]

    def _time(self) -> str:
        if self.hours is None:
            return f"hours: not known without --device ({', '.join(GPUS)}), --peak or --measure"
        step = self.hours * 3600 / self.numbers.steps
        if self.measured is not None:
            m = self.measured
            how = (
                f"as measured here on {m.device} with a shard of {m.images}: {m.seconds:.2f} s, "
                f"{m.flops_per_second:.2e} FLOP/s"
            )
        else:
            how = f"at {self.utilization:.0%} of {self.peak:.2e} FLOP/s"
        if self.numbers.ranks > 1:
            how += ", without waiting for other ranks"
        return f"{_number(self.hours)} hours, {_number(step)} s a step, {how}"

    def verdict(self) -> str:
        """Return whether it fits, and if not what would."""
        needed, has = self.numbers.bytes_needed(self.device), self.device.memory
        if self.fits:
            return f"fits: {_gb(needed)} of {_gb(has)}"
        short = f"does not fit: {_gb(needed)} of {_gb(has)}"
        if self.advice is None:
            return f"{short}, and no switch makes it fit: a smaller network or fewer crops would"
        change, needs = self.advice.change, self.advice.numbers.bytes_needed(self.device)
        overrides = list(change.overrides)
        if self.advice.change.ranks != self.numbers.ranks:
            overrides.append(f"--ranks {self.advice.change.ranks}")
        return f"{short}\n  {' '.join(overrides)}\n  would, with {_gb(needs)}: {change.note}"

    def json(self) -> str:
        """Return the plan as programs read it; bytes, FLOPs, hours."""
        n = self.numbers
        values: dict[str, Any] = {
            "device": self.device.name,
            "memory": self.device.memory,
            "fits": self.fits,
            "needed": n.bytes_needed(self.device),
            "parts": n.parts,
            "peak_pass": n.peak_pass,
            "host": n.host,
            "steps": n.steps,
            "shards": n.shards,
            "images": n.images,
            "parameters": n.parameters,
            "ranks": n.ranks,
            "parallel": n.parallel.kind,
            "flops": n.flops,
            "traffic": n.traffic,
            "hours": self.hours,
            "peak": self.peak,
            "utilization": None if self.measured else self.utilization,
            "measured": None if self.measured is None else self.measured._asdict(),
            "advice": None
            if self.advice is None
            else {
                "overrides": list(self.advice.change.overrides),
                "ranks": self.advice.change.ranks,
                "needed": self.advice.numbers.bytes_needed(self.device),
                "note": self.advice.change.note,
            },
        }
        return json.dumps(values, indent=2)


def _row(name: str, size: str, note: str) -> str:
    return f"  {name:<14}{size:>10}  {note}".rstrip()


def _of(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number > 1)}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.2f} MB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
