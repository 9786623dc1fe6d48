"""The record of a submission: what its jobs run, from which commit, and what has happened to them.

A submission is a folder, shared by all nodes:

    submission.json   what is run, written once
    jobs.json         the ids that SLURM gave
    script.sh         the batch script
    0.yaml, ...       the resolved configurations of trainings
    events.jsonl      starts and ends, with their reasons
    logs/             output by job and rank

Imports no torch: the batch script's last line runs this on the first node.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.files import append_record, read_json, read_records, write_atomically, writing
from poa_plugin.launch.profile import Profile
from poa_plugin.launch.progress import newest_checkpoint
from poa_plugin.version import __version__

FORMAT = 1
COMMENT = "poa:"
"""How the comment of a job begins, by which `poa jobs` finds it; the submission's folder follows."""
EVENTS = "events.jsonl"
REQUEUE = 85
"""The supervisor's exit status after which the batch script requeues its job."""


@dataclass(frozen=True)
class Task:
    """What one job, or one job of an array, runs.

    Attributes:
        run: the output folder of the training, or of the run that is swept.
        arguments: of `poa`.
        results: the folder to which a sweep writes; empty for a training.
    """

    run: str
    arguments: list[str]
    results: str = ""

    def mark(self) -> int:
        """Return a number that grows with what is saved: a checkpoint's step, or when a sweep wrote."""
        if not self.results:
            return newest_checkpoint(Path(self.run))
        try:
            return (Path(self.results) / "results.json").stat().st_mtime_ns
        except OSError:
            return 0


@dataclass(frozen=True)
class Submission:
    """What was submitted.

    Attributes:
        folder: of the record.
        tasks: one, or those of an array.
        profile: as it was resolved.
        commit: of the code, where it is a git repository, with `+` if files were changed since.
        current_folder: in which relative paths of the tasks begin.
        created: UTC, ISO 8601.
        version: of the package.
    """

    folder: Path
    tasks: list[Task]
    profile: Profile
    commit: str = ""
    current_folder: str = field(default_factory=os.getcwd)
    created: str = field(default_factory=lambda: _now())
    version: str = __version__

    @property
    def name(self) -> str:
        """What people call it."""
        return self.folder.name

    @property
    def is_array(self) -> bool:
        """Whether its tasks are jobs of an array."""
        return len(self.tasks) > 1

    @property
    def jobs(self) -> list[str]:
        """The ids that SLURM gave, those of a chain in their order; none before it is submitted."""
        file = self.folder / "jobs.json"
        return [str(job) for job in read_json(file)] if file.exists() else []

    def write(self) -> None:
        """Write `submission.json`."""
        record = {**asdict(self), "format": FORMAT, "folder": None}
        write_atomically(self.folder / "submission.json", json.dumps(record, indent=2) + "\n")

    def add_job(self, job: str) -> None:
        """Note the id of a job."""
        write_atomically(self.folder / "jobs.json", json.dumps([*self.jobs, job]) + "\n")

    def note(self, event: str, task: int, **details: Any) -> None:
        """Append an event."""
        about = {"time": _now(), "event": event, "task": task, **attempt_of(os.environ)}
        append_record(self.folder / EVENTS, {**about, **details})

    def events(self, task: int | None = None) -> list[dict[str, Any]]:
        """Return the events, of one task or of all."""
        records = read_records(self.folder / EVENTS, "time", str)
        return [each for each in records if task in (None, each["task"])]


def attempt_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what tells the attempts of a job apart: its id, and how often it has been requeued."""
    job, restart = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_RESTART_COUNT", "0")
    return {"job": job, "restart": int(restart)}


def folder_for(parent: Path, name: str) -> Path:
    """Return the folder of a new submission; those of one parent sort by time.

    Args:
        parent: of all submissions.
        name: of what is run.
    """
    return parent / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{name}"


def make_folder(folder: Path) -> None:
    """Make the folder of a submission, and that of its logs.

    Raises:
        UserError: it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True)
        (folder / "logs").mkdir()


def read_submission(folder: Path) -> Submission:
    """Read a submission.

    Raises:
        UserError: the folder holds none, or one of a newer version.
    """
    file = folder / "submission.json"
    if not file.exists():
        raise UserError(f"'{folder}' is not the folder of a submission: it has no submission.json.")
    record: Mapping[str, Any] = read_json(file)
    if record.get("format") != FORMAT:
        raise UserError(
            f"'{file}' has format {record.get('format')}, and this version reads {FORMAT}: install a newer one."
        )
    return Submission(
        folder,
        [Task(**task) for task in record["tasks"]],
        Profile(**record["profile"]),
        record["commit"],
        record["current_folder"],
        record["created"],
        record["version"],
    )


def submissions_in(parent: Path) -> list[Submission]:
    """Return the submissions of a folder, the oldest first."""
    return [read_submission(file.parent) for file in sorted(parent.glob("*/submission.json"))]


def commit_of(folder: Path) -> str:
    """Return the commit of a git repository, with `+` if files differ from it; empty if it is none."""
    git = ["git", "-C", str(folder)]
    if not (folder / ".git").exists():  # an installed package may lie within somebody's repository
        return ""
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + "+" * bool(changes.stdout.strip())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
