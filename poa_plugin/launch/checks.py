"""What is checked before a job waits for hours: ranks, notice, memory, and whether it is already there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from poa_plugin import ranks
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.launch import slurm
from poa_plugin.launch.profile import Profile
from poa_plugin.launch.submission import Submission, read_submission
from poa_plugin.plan.devices import Device, device_to_plan
from poa_plugin.plan.plan import make_plan
from poa_plugin.plan.report import Plan
from poa_plugin.sizes import parse_bytes
from poa_plugin.train.pace import longest_of, short_notice


def check_ranks(config: Config, profile: Profile) -> None:
    """Raise if a step's shards cannot be spread over a job's ranks.

    Raises:
        UserError: the nearest numbers that can are named.
    """
    shards, n_ranks = config.train.shards, profile.ranks
    if shards % n_ranks:
        nearest = " or ".join(map(str, ranks.nearest_ranks(shards, n_ranks)))
        raise UserError(
            f"The profile starts {n_ranks} ranks ({profile.nodes} x {profile.ranks_per_node}), which cannot "
            f"share the {shards} shards of a step (train.shards) equally: {nearest} can."
        )


def plan_of(config: Config, profile: Profile) -> Plan | None:
    """Return what 'poa plan' says of a recipe on a profile's devices, or None where those are not known."""
    if profile.gpus_per_node:
        if profile.device is None:
            return None
        device = device_to_plan(config, profile.device, None)
    else:
        if profile.memory in (None, "0"):
            return None
        of_node = parse_bytes(str(profile.memory), "profile.memory")
        device = Device("CPU", of_node // profile.ranks_per_node, None, is_gpu=False)
    return make_plan(config, device, profile.ranks)


def check_fits(plan: Plan | None, force: bool) -> None:
    """Raise if a recipe does not fit, unless forced to go on.

    Raises:
        UserError: with what would make it fit.
    """
    if plan is not None and not plan.fits and not force:
        short, *remedy = plan.verdict().split("\n  ")
        verdict = "; ".join(filter(None, [short, " ".join(remedy)]))
        raise UserError(
            f"'poa plan' says that the recipe {verdict}. Submit it all the same with --force."
        )


def notice_warnings(runs: Sequence[Path], profile: Profile) -> Iterator[str]:
    """Yield sentences about notices that may be too short to save."""
    for run in runs:
        longest = longest_of(run)
        if longest is None:
            yield (
                f"Nothing is known yet of how long a step and a checkpoint of '{run}' take: the job checks "
                f"after each checkpoint whether {profile.signal_delay_s} s (profile.signal_delay_s) suffice."
            )
        elif longest.notice > profile.signal_delay_s:
            yield short_notice(longest, profile.signal_delay_s)
    grace = slurm.grace_seconds(profile.partition) if slurm.is_here() else None
    known = [longest.notice for run in runs if (longest := longest_of(run))]
    if grace is not None and (not known or max(known) > grace):
        need = f"may need {max(known):.0f} s" if known else "should be enough to save"
        yield (
            f"Jobs of the partition '{profile.partition or 'default'}' can be preempted {grace} s after they "
            f"are told (GraceTime): that {need}; what is not saved by then is trained again."
        )


def check_not_queued(submission: Submission) -> None:
    """Raise if a job that waits or runs trains into the folder of one of these tasks.

    Raises:
        UserError: it is named.
    """
    runs = {task.run for task in submission.tasks if not task.results}
    for job in slurm.known_jobs():
        if job.has_ended or not (job.folder / "submission.json").exists():
            continue
        tasks = read_submission(job.folder).tasks
        for task in tasks if job.index is None else tasks[job.index : job.index + 1]:
            if task.run in runs and not task.results:
                raise UserError(
                    f"The job {job.id} ({job.state.lower()}) already trains into '{task.run}': cancel it with "
                    f"'poa jobs cancel {job.id}', or choose another output_dir."
                )
