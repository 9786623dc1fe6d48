"""What becomes of a job when all its ranks have ended: it runs again, or ends. Called by the batch script.

    python -m poa_plugin.launch.supervisor SUBMISSION STATUS

It is called once an attempt, after the ranks, so there is one requeue for each stop, and none in the middle
of a save. `scancel` ends the script itself, and so asks nobody. A node that fails, SLURM requeues by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.launch import slurm
from poa_plugin.launch.stops import NOT_STARTED, TOLD_TO_STOP
from poa_plugin.launch.submission import REQUEUE, Submission, attempt_of, read_submission

STOPPED = {NOT_STARTED, *(128 + number for number in TOLD_TO_STOP)}
"""Statuses of srun when a rank was told to stop before it could save; the latter before Python had started."""


@dataclass(frozen=True)
class Decision:
    """What comes next.

    Attributes:
        again: whether the task is to run again.
        status: the exit status of the job otherwise.
        reason: the end of a sentence about the job.
        is_restart: whether running again counts for `max_restarts`.
    """

    again: bool
    status: int
    reason: str
    is_restart: bool = False


def decide(
    submission: Submission, task: int, status: int, environment: Mapping[str, str] = os.environ
) -> Decision:
    """Return what comes next for a task whose ranks have ended.

    Args:
        submission: of the job.
        task: its number in the submission.
        status: of srun, the largest of all ranks'.
        environment: of the batch script.
    """
    attempt, events = attempt_of(environment), submission.events(task)
    this = {e["event"]: e for e in events if attempt.items() <= e.items()}
    if "finish" in this:  # a rank that crashes after that takes nothing away
        return Decision(False, 0, "has finished")
    stopped = "stop" in this or status in STOPPED
    how = "was stopped" if stopped else f"has crashed with status {status}"
    if status == 0 and not stopped:
        return Decision(False, 1, "has ended, and rank 0 left no note: its log may say why")
    saved = "start" in this and submission.tasks[task].mark() > this["start"]["mark"]
    if stopped and saved:
        return Decision(True, 0, f"{how}, and goes on from a newer checkpoint")
    if not (stopped or saved):
        return Decision(False, status, f"{how}, and has saved nothing new: it would do so again")
    restarts = sum(bool(event.get("is_restart")) for event in _since_submitted(events))
    most = submission.profile.max_restarts
    if restarts >= most:
        return Decision(False, status, f"{how}, after {restarts} restarts (profile.max_restarts)")
    return Decision(True, 0, f"{how}: restart {restarts + 1} of at most {most}", is_restart=True)


def main(folder: Path, status: int) -> int:
    """Note how the attempt ended; return the status of the batch script, or `REQUEUE`."""
    submission = read_submission(folder)
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    decision = decide(submission, task, status)
    requeue = decision.again and submission.profile.requeue
    event = "requeue" if requeue else "next" if decision.again else "end"
    submission.note(
        event, task, status=status, reason=decision.reason, is_restart=decision.is_restart
    )
    print(f"poa: The job {decision.reason}.", flush=True)
    if requeue:
        return REQUEUE
    if not decision.again:
        _cancel_rest_of_chain(submission)
    return decision.status


def _since_submitted(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events since somebody has submitted the jobs, the first time or again."""
    submitted = [i for i, event in enumerate(events) if event["event"] == "submit"]
    return events[submitted[-1] :] if submitted else events


def _cancel_rest_of_chain(submission: Submission) -> None:
    """Cancel the jobs that would have gone on; where a node may not do that, they end by themselves."""
    jobs, this = submission.jobs, os.environ.get("SLURM_JOB_ID", "")
    later = jobs[jobs.index(this) + 1 :] if this in jobs else []
    try:
        slurm.cancel(later)
    except UserError as error:
        print(f"poa: warning: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
