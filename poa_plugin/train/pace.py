"""The longest step and checkpoint of a run, and whether the notice that a job gets covers them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from poa_plugin import ranks
from poa_plugin.errors import UserError
from poa_plugin.files import read_json, write_atomically

MARGIN = 60.0
"""Seconds beside a step and a checkpoint: for the signal to arrive, and for the processes to end."""
NOTICE = "POA_SIGNAL_DELAY_S"
"""The variable that tells a job how many seconds before its limit it is told to save."""


@dataclass
class Longest:
    """Seconds of the longest step and checkpoint of a run, in all its attempts."""

    step: float = 0.0
    checkpoint: float = 0.0

    @property
    def notice(self) -> float:
        """Seconds of notice that a run needs to save before it is ended."""
        return self.step + self.checkpoint + MARGIN


def longest_of(run: Path) -> Longest | None:
    """Return what a run has measured, or None before its first checkpoint."""
    file = run / "longest.json"
    with suppress(UserError, TypeError):  # a damaged note ends nothing
        return Longest(**read_json(file)) if file.exists() else None
    return None


class Pace:
    """Measures a run's steps and checkpoints, and writes `longest.json` after each checkpoint.

    Args:
        run: its folder.
        environment: which may tell the notice that the job gets.
    """

    def __init__(self, run: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.file, self.longest = run / "longest.json", longest_of(run) or Longest()
        notice = environment.get(NOTICE, "")
        self._notice = float(notice) if notice.isdigit() else None

    def add_step(self, seconds: float) -> None:
        """Count a step."""
        self.longest.step = max(self.longest.step, seconds)

    def add_checkpoint(self, seconds: float) -> None:
        """Count a checkpoint. Rank 0 writes what is longest, and warns once if the notice is too short."""
        self.longest.checkpoint = max(self.longest.checkpoint, seconds)
        if not ranks.is_first():
            return
        with suppress(OSError):  # full disks are the checkpoint's to report
            write_atomically(self.file, json.dumps(asdict(self.longest)) + "\n")
        if self._notice is not None and self._notice < self.longest.notice:
            print(f"\npoa: warning: {short_notice(self.longest, self._notice)}", file=sys.stderr)
            self._notice = None


def short_notice(longest: Longest, seconds: float) -> str:
    """Return a sentence about a notice that does not cover a step and a checkpoint."""
    return (
        f"The job is told to save {seconds:g} s before it is ended, and may need {longest.notice:.0f} s: "
        f"{longest.step:.1f} s for a step, {longest.checkpoint:.1f} s for a checkpoint and {MARGIN:g} s "
        f"to be safe. Raise profile.signal_delay_s, or save more often."
    )
