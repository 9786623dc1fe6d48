"""What a run writes while it trains: metrics.jsonl, TensorBoard events, and a progress display."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from poa_plugin.elastic.subnet import Subnet
from poa_plugin.train.schedules import Values


class Metrics:
    """Means over `period` steps, written as one line each; every elastic student is listed.

    Args:
        run: the output folder.
        period: steps between two lines.
        start: the step from which the run goes on; later lines of an earlier attempt are dropped.
        total: the last step, for the progress display.
        epoch_length: steps of an epoch.
        images_per_step: over all shards.
    """

    def __init__(
        self,
        run: Path,
        period: int,
        start: int,
        total: int,
        epoch_length: int,
        images_per_step: int,
    ) -> None:
        self.period, self.total, self.epoch_length = period, total, epoch_length
        self.images_per_step = images_per_step
        self.path = run / "metrics.jsonl"
        self.seconds = _keep_lines_before(self.path, start)
        self.events = SummaryWriter(str(run / "events"), purge_step=start)
        self.display = Display(start, total)
        self.latest: dict[str, Any] | None = None
        self._sums: dict[str, Any] = {}
        self._norms: dict[str, Tensor] = {}
        self._subnets: list[str] = []
        self._steps = 0
        self._last: tuple[int, Values]
        self._since = time.perf_counter()

    def add(
        self,
        step: int,
        terms: dict[str, Tensor],
        norms: dict[str, Tensor],
        values: Values,
        subnets: Sequence[Subnet],
    ) -> None:
        """Take in one step's results; write a line when `period` steps have come together."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        for name, value in norms.items():
            self._norms[name] = value
        self._subnets += [subnet.name for subnet in subnets]
        self._steps += 1
        self._last = (step, values)
        if self._steps == self.period:
            self._write()
        self.display.advance(step, self.latest, subnets)

    def close(self) -> None:
        """Write what has come together since the last line, stop the display, close the files."""
        if self._steps:
            self._write()
        self.display.close()
        self.events.close()

    def _write(self) -> None:
        step, values = self._last
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed
        terms = {name: float(value) / self._steps for name, value in self._sums.items()}
        line: dict[str, Any] = {
            "step": step,
            "epoch": (step + 1) / self.epoch_length,
            "loss": sum(terms.values()),
            "terms": terms,
            **asdict(values),
            "grad_norm": {name: float(value) for name, value in self._norms.items()},
            "images_per_second": self._steps * self.images_per_step / elapsed,
            "seconds": self.seconds,
            "subnets": self._subnets,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name in ("loss", "lr", "weight_decay", "momentum", "teacher_temp", "images_per_second"):
            self.events.add_scalar(name, line[name], step)
        for group in ("terms", "grad_norm"):
            for name, value in line[group].items():
                self.events.add_scalar(f"{group}/{name}", value, step)
        self.latest = line
        self._sums, self._subnets, self._steps = {}, [], 0


class Bar(Progress):
    """A progress bar with a line of words under it, cut at the terminal's edge."""

    words = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, then the words."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.words, no_wrap=True, overflow="ellipsis")


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
        words = f"{_few(subnets)}  {_summary(line)}".strip()
        if self._bar is not None:
            self._bar.words = words
            self._bar.update(self._task, completed=step + 1)
            return
        now = time.perf_counter()
        if now - self._last_line < self.SECONDS_BETWEEN_LINES and step + 1 < self.total:
            return
        self._last_line = now
        done = step + 1 - self.start
        left = (now - self.began) / done * (self.total - step - 1)
        print(f"step {step + 1}/{self.total}  left {_clock(left)}  {words}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._bar is not None:
            self._bar.stop()
        sys.stdout.flush()


def _summary(line: dict[str, Any] | None) -> str:
    """Return loss, speed, and the terms, each with both students' shares and both kinds of crops."""
    if line is None:
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


def _keep_lines_before(path: Path, step: int) -> float:
    """Drop the lines of steps that will be run again; return the seconds of those that stay."""
    if not path.is_file():
        return 0.0
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a line that a kill cut off
            if json.loads(line)["step"] < step:
                kept.append(line)
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return float(json.loads(kept[-1])["seconds"]) if kept else 0.0
