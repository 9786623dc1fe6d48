"""SLURM's commands: what they are asked, and their words where they refuse."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.launch.submission import COMMENT

SEPARATOR = "\x1f"
FIELDS = ("%i", "%F", "%K", "%T", "%r", "%L", "%k", "%R")
"""Of squeue: job, its array, index in it, state, reason, time left, comment, nodes or reason."""
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
"""States of jobs that will not run any more; a requeued one is PENDING."""


@dataclass(frozen=True)
class Job:
    """A job that SLURM knows of.

    Attributes:
        id: such as `12`, or `12_1` in an array.
        array: the id that the jobs of an array share; of another job, its id.
        index: in its array, or None; also of an array that has not been split into jobs yet.
        state: such as `RUNNING`.
        reason: why it waits or ended, in SLURM's words; empty if it gives none.
        time_left: until its limit.
        folder: of its submission.
    """

    id: str
    array: str
    index: int | None
    state: str
    reason: str
    time_left: str
    folder: Path

    @property
    def has_ended(self) -> bool:
        """Whether it will not run any more."""
        return self.state in ENDED


def is_here() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def submit(script: Path, *options: str) -> str:
    """Submit a batch script; return the job's id.

    Args:
        script: to run.
        options: of sbatch.

    Raises:
        UserError: SLURM refuses; its words are passed on.
    """
    words = _run(["sbatch", "--parsable", *options, str(script)], "does not take the job")
    return words.strip().partition(";")[0]


def known_jobs() -> list[Job]:
    """Return the user's jobs that `poa submit` made, those that ended lately among them; one call of squeue.

    Raises:
        UserError: SLURM cannot be asked.
    """
    form = SEPARATOR.join(FIELDS)
    words = _run(
        ["squeue", "--me", "--noheader", "--array", "--states=all", f"--format={form}"],
        "cannot be asked",
    )
    rows = (line.split(SEPARATOR) for line in words.splitlines())
    jobs = []
    for id_, array, index, state, reason, time_left, comment, _ in rows:
        if comment.startswith(COMMENT):
            jobs.append(
                Job(
                    id_,
                    array,
                    int(index) if index.isdigit() else None,
                    state,
                    "" if reason == "None" else reason,
                    time_left,
                    Path(comment.removeprefix(COMMENT)),
                )
            )
    return jobs


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are passed over.

    Raises:
        UserError: SLURM refuses.
    """
    if jobs:
        _run(["scancel", "--quiet", *jobs], "does not cancel the job")


def requeue(job: str) -> None:
    """Have a running job end and wait to be run again.

    Raises:
        UserError: SLURM refuses.
    """
    _run(["scontrol", "requeue", job], "does not requeue the job")


def grace_seconds(partition: str | None) -> int | None:
    """Return the notice that a preempted job of a partition gets; None if it is not preempted, or not known.

    Args:
        partition: its name; the cluster's default if None.
    """
    try:
        words = _run(["scontrol", "show", "partition", "--oneliner"], "cannot be asked")
    except UserError:
        return None
    for line in words.splitlines():
        values = dict(re.findall(r"(\w+)=(\S*)", line))
        chosen = values.get("PartitionName") == partition or (
            partition is None and values.get("Default") == "YES"
        )
        if chosen and values.get("PreemptMode", "OFF") not in ("OFF", ""):
            return int(values.get("GraceTime", 0))
    return None


def _run(command: list[str], refusal: str) -> str:
    """Return what a command of SLURM prints.

    Raises:
        UserError: it is not on this machine, or fails; `refusal` says at what.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"There is no SLURM here: '{command[0]}' cannot be started.") from error
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}"
        words = re.sub(rf"^{command[0]}: (error: )?", "", words).rstrip(".")
        raise UserError(f"SLURM {refusal}: {words}.")
    return done.stdout
