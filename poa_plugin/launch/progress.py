"""How far a run is, read from its folder while it trains."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl that hold its last line."""


@dataclass(frozen=True)
class Progress:
    """The last line of a run's metrics.

    Attributes:
        step: steps that are done.
        total: steps of the run; None if its configuration cannot be read.
        images_per_second, loss: of the last line.
        seconds_left: at the pace of the last line; None if that is not known.
    """

    step: int
    total: int | None
    images_per_second: float | None
    loss: float | None
    seconds_left: float | None


def progress_of(run: Path) -> Progress | None:
    """Return how far a run is, or None before its first line of metrics."""
    last = _last_record(run / "metrics.jsonl")
    if last is None:
        return None
    step, total = int(last["step"]) + 1, _total_steps(run)
    pace = _seconds_per_step(last)
    left = None if total is None or pace is None else max(0, total - step) * pace
    return Progress(step, total, last.get("images_per_second"), last.get("loss"), left)


def newest_checkpoint(run: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 before there is one.

    A folder with a number for a name was written completely (`train/rotation.py`).
    """
    with suppress(OSError):
        return max((int(e.name) for e in (run / "ckpt").iterdir() if e.name.isdigit()), default=0)
    return 0


def _seconds_per_step(record: dict[str, float]) -> float | None:
    times = [record.get(name) for name in ("data_seconds", "step_seconds")]
    return None if None in times else sum(time for time in times if time is not None)


def _last_record(file: Path) -> dict[str, float] | None:
    try:
        with file.open("rb") as lines:
            lines.seek(0, 2)
            lines.seek(max(0, lines.tell() - TAIL))
            tail = lines.read().splitlines()
    except OSError:
        return None
    for line in reversed(tail):
        with suppress(ValueError):  # one that is being written
            record = json.loads(line)
            if isinstance(record, dict) and "step" in record:
                return record
    return None


def _total_steps(run: Path) -> int | None:
    try:
        config = OmegaConf.load(run / "config.yaml")
        return int(config.optim.epochs) * int(config.train.OFFICIAL_EPOCH_LENGTH)
    except (OSError, OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError):
        return None
