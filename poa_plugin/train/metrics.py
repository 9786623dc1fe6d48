"""The output of a run while it trains: metrics.jsonl, its loggers, and a progress display."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from poa_plugin import ranks
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.files import append_record, disk_errors, drop_records_from, flush
from poa_plugin.loggers import Loggers
from poa_plugin.train.agreement import Step
from poa_plugin.train.schedules import Values
from poa_plugin.train.timing import Times

SCALARS = (
    "epoch",
    "loss",
    "lr",
    "weight_decay",
    "momentum",
    "teacher_temp",
    "images_per_second",
    "data_seconds",
    "step_seconds",
    "skipped_steps",
)
"""The entries of a line of metrics that loggers get, beside those of `GROUPS`."""
GROUPS = ("terms", "terms_by_head", "grad_norm")


class Metrics:
    """Means over `period` steps, written as one line each; every elastic student is listed.

    A line is written at the same step with the same numbers, except times, however often the run was
    stopped: the sums since the last line are part of a checkpoint (`state`).

    Every rank has the same sums; rank 0 writes and shows them.

    Args:
        run: the output folder.
        period: steps between two lines.
        start: the step from which the run resumes; later lines of an earlier attempt are dropped.
        total: steps of the run; the last line is written at its end.
        epoch_length: steps of an epoch.
        images_per_step: over all shards.
        state: what `state` returned at `start`.
        loggers: also receive each line, and are closed with this; None for none.

    Raises:
        UserError: here or in any method, the disk refuses to write.
    """

    def __init__(
        self,
        run: Path,
        period: int,
        start: int,
        total: int,
        epoch_length: int,
        images_per_step: int,
        state: dict[str, Any] | None = None,
        loggers: Loggers | None = None,
    ) -> None:
        self.period, self.total, self.epoch_length = period, total, epoch_length
        self.images_per_step, self.loggers = images_per_step, loggers
        self.run, self.path = run, run / "metrics.jsonl"
        if ranks.is_first():
            with disk_errors(run):
                drop_records_from(self.path, start)
        self.display = Display(start, total) if ranks.is_first() else None
        self.latest: dict[str, Any] | None = None
        state = state or {}
        self.seconds = float(state.get("seconds", 0.0))
        self._sums: dict[str, float] = dict(state.get("sums", {}))
        self._heads: dict[str, list[float]] = dict(state.get("heads", {}))
        self._norms: dict[str, float] = dict(state.get("norms", {}))
        self._subnets: list[str] = list(state.get("subnets", []))
        self._steps, self._skipped = int(state.get("steps", 0)), int(state.get("skipped", 0))
        self._timed, self._data_seconds, self._step_seconds = 0, 0.0, 0.0
        self._since = time.perf_counter()

    def add(
        self,
        step: int,
        taken: Step,
        values: Values,
        subnets: Sequence[Subnet],
        times: Times,
    ) -> None:
        """Add one step's results; a skipped step is counted, but is not part of the means.

        Args:
            step: its number.
            taken: its outcome.
            values: of the schedules.
            subnets: the elastic students.
            times: how long it took; also counted if it is skipped.
        """
        if taken.non_finite:
            self._skipped += 1
        else:
            for name, value in taken.terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            for name, heads in taken.by_head.items():
                before = self._heads.get(name, [0.0] * len(heads))
                self._heads[name] = [a + b for a, b in zip(before, heads, strict=True)]
            self._norms.update(taken.norms)
            self._steps += 1
        self._timed += 1
        self._data_seconds += times.data
        self._step_seconds += times.step
        self._subnets += [subnet.name for subnet in subnets]
        if (step + 1) % self.period == 0 or step + 1 == self.total:
            self._write(step, values)
        if self.display is not None:
            self.display.advance(step, self.latest, subnets)

    def state(self) -> dict[str, Any]:
        """Return the sums since the last line, as JSON values."""
        return {
            "seconds": self.seconds + time.perf_counter() - self._since,
            "sums": dict(self._sums),
            "heads": dict(self._heads),
            "norms": dict(self._norms),
            "subnets": list(self._subnets),
            "steps": self._steps,
            "skipped": self._skipped,
        }

    def flush(self) -> None:
        """Flush everything written so far to the disk, so that a kill leaves no gap."""
        if self.loggers is not None:
            self.loggers.flush()
        with disk_errors(self.run):
            if ranks.is_first() and self.path.is_file():
                flush(self.path)

    def close(self) -> None:
        """Stop the display and close the loggers."""
        if self.display is not None:
            self.display.close()
        if self.loggers is not None:
            self.loggers.close()

    def _write(self, step: int, values: Values) -> None:
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed
        terms = {name: value / self._steps for name, value in self._sums.items()}
        line: dict[str, Any] = {
            "step": step,
            "epoch": (step + 1) / self.epoch_length,
            "loss": sum(terms.values()) if terms else None,
            "terms": terms,
            "terms_by_head": {
                name: [value / self._steps for value in heads]
                for name, heads in self._heads.items()
            },
            **asdict(values),
            "grad_norm": dict(self._norms),
            "skipped_steps": self._skipped,
            "images_per_second": self._timed * self.images_per_step / elapsed,
            "data_seconds": self._data_seconds / self._timed,
            "step_seconds": self._step_seconds / self._timed,
            "seconds": self.seconds,
            "subnets": self._subnets,
        }
        if ranks.is_first():
            with disk_errors(self.run):
                append_record(self.path, line)
        if self.loggers is not None:
            self.loggers.log(step, scalars(line))
        self.latest = line
        self._sums, self._heads, self._norms, self._subnets = {}, {}, {}, []
        self._steps = self._skipped = self._timed = 0
        self._data_seconds = self._step_seconds = 0.0


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics by name, such as `loss` and `terms/koleo_intact`."""
    numbers = {name: line[name] for name in SCALARS if line[name] is not None}
    for group in GROUPS:
        for name, value in line[group].items():
            if isinstance(value, list):
                numbers |= {f"{group}/{name}/{head}": part for head, part in enumerate(value)}
            else:
                numbers[f"{group}/{name}"] = value
    return numbers


class Bar(Progress):
    """A progress bar with a line of text under it, truncated at the terminal's edge."""

    text = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, then the text."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.text, no_wrap=True, overflow="ellipsis")


class Display:
    """A progress bar on a terminal, plain lines elsewhere (at most one every ten seconds)."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total, self.began = start, total, time.perf_counter()
        self._last_line = float("-inf")
        self._bar: Bar | None = None
        if Console().is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns)
            self._task = self._bar.add_task("train", total=total, completed=start)
            self._bar.start()

    def advance(self, step: int, line: dict[str, Any] | None, subnets: Sequence[Subnet]) -> None:
        """Show that a step is done, with the newest means and the step's sub-networks."""
        text = f"{_few(subnets)}  {_summary(line)}".strip()
        if self._bar is not None:
            self._bar.text = text
            self._bar.update(self._task, completed=step + 1)
            return
        now = time.perf_counter()
        if now - self._last_line < self.SECONDS_BETWEEN_LINES and step + 1 < self.total:
            return
        self._last_line = now
        done = step + 1 - self.start
        remaining = (now - self.began) / done * (self.total - step - 1)
        print(f"step {step + 1}/{self.total}  left {_clock(remaining)}  {text}", flush=True)

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()
        sys.stdout.flush()


def _summary(line: dict[str, Any] | None) -> str:
    """Return loss, speed, and the terms, each summed over both students and both kinds of crops."""
    if line is None or line["loss"] is None:
        return ""
    grouped: dict[str, float] = defaultdict(float)
    for name, value in line["terms"].items():
        kind = name.removesuffix("_global").removesuffix("_local")
        grouped[kind.removesuffix("_intact").removesuffix("_elastic")] += value
    terms = " ".join(f"{name} {value:.3f}" for name, value in grouped.items())
    return f"loss {line['loss']:.3f} ({terms})  {line['images_per_second']:.1f} images/s"


def _few(subnets: Sequence[Subnet]) -> str:
    names = [subnet.name for subnet in subnets]
    return " ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
