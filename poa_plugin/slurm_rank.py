"""A rank of a job: runs the recorded command of `poa` in the environment that SLURM gives it.

    srun python -m poa_plugin.slurm_rank SUBMISSION

A training that was asked to stop has saved, on all ranks, and every rank ends with 0, so that none is killed
while another is still ending. What happened is told to the supervisor in a note of this attempt.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from poa_plugin.launch.stops import NOT_STARTED, TOLD_TO_STOP


def main(folder: Path) -> int:
    """Run this rank's command; return the exit status."""
    for number in TOLD_TO_STOP:  # training puts its own handlers in place of these
        signal.signal(number, _end)
    from poa_plugin.launch.slurm_variables import rank_variables
    from poa_plugin.launch.submission import read_submission

    submission = read_submission(folder)
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    os.environ.update(rank_variables(os.environ))
    is_first = os.environ["RANK"] == "0"
    if is_first:
        submission.note("start", task, mark=submission.tasks[task].mark())

    from poa_plugin.cli import main as poa

    arguments = submission.tasks[task].arguments
    print(f"poa {' '.join(arguments)}", flush=True)
    try:
        status = poa(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if status - 128 in TOLD_TO_STOP:
            submission.note("stop", task, signal=status - 128, rank=int(os.environ["RANK"]))
            return NOT_STARTED
        raise
    if status - 128 in TOLD_TO_STOP:
        if is_first:
            submission.note("stop", task, signal=status - 128, rank=0)
        return 0
    if is_first and status == 0:
        submission.note("finish", task)
    return status


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
