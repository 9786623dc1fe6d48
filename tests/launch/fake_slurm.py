"""SLURM's commands as a table of jobs: what `poa` asks them, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.launch import slurm
from poa_plugin.launch.submission import read_submission

PARTITIONS = (
    "PartitionName=gpu Default=YES PreemptMode=OFF GraceTime=0\n"
    "PartitionName=preempt Default=NO PreemptMode=REQUEUE GraceTime=20\n"
)


@dataclass
class FakeSlurm:
    """What was asked, and the jobs: state, reason and script by id, one for each job of an array."""

    asked: list[list[str]] = field(default_factory=list)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    refusal: str = ""
    last: int = 10

    def run(self, command: list[str], refusal: str) -> str:
        self.asked.append(command)
        name, *options = command
        if name == "sbatch":
            return self._sbatch(options, refusal)
        if name == "squeue":
            return "".join(f"{self._row(job)}\n" for job in self.jobs)
        if name == "scancel":
            for job in self.jobs:
                if {job, job.partition("_")[0]} & set(options):
                    self.jobs[job][0] = "CANCELLED"
        return PARTITIONS if name == "scontrol" else ""

    def end(self, job: str, state: str) -> None:
        """Let a job end."""
        self.jobs[job][0] = state

    def _sbatch(self, options: list[str], refusal: str) -> str:
        if self.refusal:
            raise UserError(f"SLURM {refusal}: {self.refusal}.")
        self.last += 1
        script = Path(options[-1])
        chosen = [option for option in options if option.startswith("--array=")]
        if chosen:
            indices = chosen[0].removeprefix("--array=").split(",")
        else:
            tasks = read_submission(script.parent).tasks
            indices = [str(i) for i in range(len(tasks))] if len(tasks) > 1 else [""]
        for index in indices:
            job = f"{self.last}{f'_{index}' * bool(index)}"
            self.jobs[job] = ["PENDING", "Resources", str(script)]
        return f"{self.last};lab\n"

    def _row(self, job: str) -> str:
        state, reason, script = self.jobs[job]
        array, _, index = job.partition("_")
        cells = [
            job,
            array,
            index or "N/A",
            state,
            reason,
            "1:00",
            f"poa:{Path(script).parent}",
            "n0",
        ]
        return slurm.SEPARATOR.join(cells)
