"""The jobs of `poa submit`: how far each is, why it waits or has ended, and what can be done about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.launch import slurm
from poa_plugin.launch.progress import Progress, progress_of
from poa_plugin.launch.submission import Submission, Task, read_submission, submissions_in

COLUMNS = ("JOB", "SUBMISSION", "STATE", "STEP", "IMG/S", "LEFT", "LOSS", "RESTARTS", "WHY")
IN_WORDS = {"finish": "FINISHED", "end": "ENDED", "stop": "STOPPED", "next": "STOPPED"}
"""What the last event of a task says of it, where SLURM no longer knows the job."""


@dataclass(frozen=True)
class TaskStatus:
    """One task of a submission.

    Attributes:
        submission: it belongs to.
        task: its number.
        job: as SLURM knows it, or None once SLURM has forgotten it.
    """

    submission: Submission
    task: int
    job: slurm.Job | None

    @property
    def what(self) -> Task:
        """What it runs."""
        return self.submission.tasks[self.task]

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.job is not None and not self.job.has_ended

    @property
    def name(self) -> str:
        """The submission's name, with the number of the task in an array."""
        return f"{self.submission.name}{f'[{self.task}]' * self.submission.is_array}"

    @property
    def job_id(self) -> str:
        """The id of its last job."""
        if self.job is not None:
            return self.job.id
        ids = self.submission.jobs
        return (ids[-1] + f"_{self.task}" * self.submission.is_array) if ids else ""

    @property
    def has_finished(self) -> bool:
        """Whether it has done all that it was to do."""
        return any(event["event"] == "finish" for event in self.submission.events(self.task))

    @property
    def state(self) -> str:
        """In a word."""
        if self.is_live and self.job is not None:
            return self.job.state
        if self.has_finished:
            return "FINISHED"
        if self.job is not None and self.job.state != "COMPLETED":
            return self.job.state
        events = self.submission.events(self.task)
        return IN_WORDS.get(events[-1]["event"], "GONE") if events else "GONE"

    @property
    def why(self) -> str:
        """Why it waits or has ended; empty while it runs."""
        reasons = [e["reason"] for e in self.submission.events(self.task) if e.get("reason")]
        if self.is_live and self.job is not None:
            running = self.job.state in ("RUNNING", "COMPLETING")
            waits = "" if running else self.job.reason
            return "; ".join(filter(None, [waits, *(reasons[-1:] if not running else [])]))
        ended = self.job.reason if self.job is not None else ""
        return reasons[-1] if reasons else ended

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        starts = [e for e in self.submission.events(self.task) if e["event"] == "start"]
        return max(0, len(starts) - 1)


def jobs_of(parent: Path | None) -> list[TaskStatus]:
    """Return the tasks that SLURM knows of, and those of the submissions in a folder, the oldest first.

    Args:
        parent: of submissions; None for those that SLURM knows of only.
    """
    live = slurm.known_jobs() if slurm.is_here() else []
    folders = {job.folder for job in live if (job.folder / "submission.json").exists()}
    submissions = [read_submission(folder) for folder in folders]
    if parent is not None:
        submissions += [
            each for each in submissions_in(parent.resolve()) if each.folder not in folders
        ]
    submissions.sort(key=lambda submission: submission.created)
    return [
        TaskStatus(submission, task, _job_of(submission, task, live))
        for submission in submissions
        for task in range(len(submission.tasks))
    ]


def table(statuses: Sequence[TaskStatus]) -> str:
    """Return a line for each task, with a heading."""
    rows = [COLUMNS, *(_row(status) for status in statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def chosen(statuses: Sequence[TaskStatus], name: str) -> list[TaskStatus]:
    """Return the tasks that a name means: of a submission, of a job, or of the last submission of a run.

    Raises:
        UserError: there is none; the nearest is named.
    """
    for status in statuses:
        if name in (status.job_id, status.name):
            return [status]
    named = [s for s in statuses if name in (s.submission.name, *s.submission.jobs)]
    if not named:
        run = str(Path(name).resolve())
        of_run = [s for s in statuses if s.what.run == run]
        named = [s for s in of_run if s.submission is of_run[-1].submission]
    if not named:
        names = [n for s in statuses for n in (s.name, s.job_id)]
        raise UserError(f"There is no job '{name}': {did_you_mean(name, dict.fromkeys(names))}.")
    return named


def cancel(statuses: Sequence[TaskStatus]) -> list[str]:
    """Cancel tasks that wait or run, and what a chain has behind them; return the ids of their jobs.

    Raises:
        UserError: none of them waits or runs, or SLURM refuses.
    """
    live = [status for status in statuses if status.is_live]
    if not live:
        raise UserError(f"'{statuses[0].name}' neither waits nor runs: it is {statuses[0].state}.")
    ids = [job for status in live for job in _ids(status)]
    slurm.cancel(ids)
    for status in live:
        status.submission.note("end", status.task, reason="was cancelled by 'poa jobs cancel'")
    return ids


def log_files(status: TaskStatus, rank: int) -> list[Path]:
    """Return the logs of a rank, those of earlier jobs of the same task first.

    Raises:
        UserError: there is none; the ranks that have one are named.
    """
    logs = status.submission.folder / "logs"
    ids = [
        f"{job}_{status.task}" * status.submission.is_array or job for job in status.submission.jobs
    ]
    files = [file for job in ids if (file := logs / f"{job}_{rank}_log.out").exists()]
    if not files:
        others = sorted({int(file.name.split("_")[-2]) for file in logs.glob("*_log.out")})
        known = (
            f"there are logs of the ranks {', '.join(map(str, others))}"
            if others
            else "nothing has run"
        )
        raise UserError(f"'{status.name}' has no log of rank {rank}: {known}.")
    return files


def to_resume(statuses: Sequence[TaskStatus]) -> list[int]:
    """Return the numbers of those tasks of one submission that have ended before they had finished.

    Raises:
        UserError: one waits or runs, or all have finished.
    """
    for status in statuses:
        if status.is_live:
            raise UserError(f"'{status.name}' is {status.state.lower()}: it needs no resuming.")
    unfinished = [status.task for status in statuses if not status.has_finished]
    if not unfinished:
        raise UserError(
            f"'{statuses[0].submission.name}' has finished: there is nothing to resume."
        )
    return unfinished


def say_without_slurm() -> None:
    """Say on stderr where states come from if SLURM cannot be asked."""
    if not slurm.is_here():
        print("poa: There is no SLURM here: states are those of the records.", file=sys.stderr)


def _job_of(submission: Submission, task: int, jobs: Sequence[slurm.Job]) -> slurm.Job | None:
    """Return the job of a task: of a chain the first that has not ended, or else the last."""
    of_task = [
        job
        for number in submission.jobs
        for job in jobs
        if job.array == number and (not submission.is_array or job.index == task)
    ]
    live = [job for job in of_task if not job.has_ended]
    return next(iter(live or of_task[::-1]), None)


def _ids(status: TaskStatus) -> Iterator[str]:
    assert status.job is not None
    if status.submission.is_array:
        yield status.job.id
    else:
        jobs = status.submission.jobs
        yield from jobs[jobs.index(status.job.id) :]


def _row(status: TaskStatus) -> tuple[str, ...]:
    progress = None if status.what.results else progress_of(Path(status.what.run))
    return (
        status.job_id,
        status.name,
        status.state,
        *_cells(progress, status.state == "RUNNING"),
        str(status.restarts),
        status.why,
    )


def _cells(progress: Progress | None, is_running: bool) -> tuple[str, str, str, str]:
    """Return steps, images a second, time left, loss."""
    if progress is None:
        return "-", "-", "-", "-"
    of = "?" if progress.total is None else f"{progress.total}"
    rate = progress.images_per_second if is_running else None
    left = progress.seconds_left if is_running else None
    return (
        f"{progress.step}/{of}",
        "-" if rate is None else f"{rate:.1f}",
        "-" if left is None else _duration(left),
        "-" if progress.loss is None else f"{progress.loss:.3f}",
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
