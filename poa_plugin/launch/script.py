"""The batch script of a submission, written by submitit.

submitit's own jobs run a pickled function, and its handler of SIGUSR2 lets rank 0 checkpoint alone and
requeue in the middle of a step. Ours run a command line, recorded beside them: each rank runs
`poa_plugin.slurm_rank`, and when all of them have ended, the script asks `launch.supervisor` what comes next.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from poa_plugin.launch.profile import Profile
from poa_plugin.launch.submission import COMMENT, REQUEUE, Submission


class _Executor(SlurmExecutor):
    """submitit's executor, which is asked for the text of a script, also where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        """Say that it can be used here."""
        return 2

    def text(self, command: str, jobs: int) -> str:
        """Return a script.

        Args:
            command: of each rank.
            jobs: of an array; 1 is no array.
        """
        if jobs > 1:
            self.parameters["map_count"] = jobs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cpus-per-gpu, which is not used
            return str(self._make_submission_file_text(command, uid=""))


def script_of(submission: Submission) -> str:
    """Return the batch script of a submission.

    SLURM's options are in its head; a `set -e` is not: the supervisor has to see how the ranks ended.
    """
    profile, folder = submission.profile, shlex.quote(str(submission.folder))
    python = shlex.quote(profile.python or sys.executable)
    executor = _Executor(submission.folder / "logs")
    executor.update_parameters(
        job_name=f"poa-{submission.name.rpartition('-')[2]}",
        time=profile.minutes,
        nodes=profile.nodes,
        ntasks_per_node=profile.ranks_per_node,
        cpus_per_task=profile.cpus_per_task,
        signal_delay_s=profile.signal_delay_s,
        comment=f"{COMMENT}{submission.folder}",
        wckey="",
        array_parallelism=profile.array_parallelism,
        stderr_to_stdout=True,
        setup=_setup(submission),
        srun_args=_srun_options(profile),
        teardown=[
            "status=$?",
            f'{python} -m poa_plugin.launch.supervisor {folder} "$status"',
            "next=$?",
            f'[ "$next" = {REQUEUE} ] && exec scontrol requeue "$SLURM_JOB_ID"',
            'exit "$next"',
            "",
        ],
        additional_parameters=_options(profile),
    )
    prefix = f"{profile.command_prefix} " if profile.command_prefix else ""
    text = executor.text(
        f"{prefix}{python} -m poa_plugin.slurm_rank {folder}", len(submission.tasks)
    )
    return "\n".join(line for line in text.splitlines() if line != "#SBATCH --wckey=''") + "\n"


def _options(profile: Profile) -> dict[str, Any]:
    """Return options of sbatch by name, beside those that submitit has arguments for."""
    options: dict[str, Any] = {
        name: getattr(profile, name)
        for name in ("partition", "account", "qos", "constraint", "exclude")
        if getattr(profile, name)
    }
    if profile.memory:
        options["mem"] = profile.memory
    options["requeue" if profile.requeue else "no-requeue"] = True
    gpus = profile.gpus_per_node
    if gpus:
        kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
        if profile.gpus_by == "gres":
            options["gres"] = f"gpu:{kind}{gpus}"
        elif profile.gpus_by == "gpus-per-task":
            options["gpus-per-task"] = f"{kind}1"
        else:
            options["gpus-per-node"] = f"{kind}{gpus}"
    for option in profile.sbatch:
        name, equals, value = option.lstrip("-").partition("=")
        options[name] = value if equals else True
    return options


def _srun_options(profile: Profile) -> list[str]:
    # From 22.05 on srun does not take --cpus-per-task from its job.
    options = ["--open-mode=append", f"--cpus-per-task={profile.cpus_per_task}"]
    options.append(f"--kill-on-bad-exit={int(profile.kill_on_bad_exit)}")
    return [*options, *profile.srun]


def _setup(submission: Submission) -> list[str]:
    """Return the lines before the run: its folder, variables, modules, and what each node does first."""
    profile = submission.profile
    lines = [f"cd {shlex.quote(submission.current_folder)} || exit 1"]
    variables = {"POA_SIGNAL_DELAY_S": str(profile.signal_delay_s), **profile.environment}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += profile.setup
    if profile.stage:
        each = f"srun --nodes={profile.nodes} --ntasks={profile.nodes} --ntasks-per-node=1"
        lines.append(f"{each} bash -c {shlex.quote(profile.stage)} || exit 1")
    return lines
