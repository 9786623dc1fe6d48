"""Submitting: trainings, one or an array of them, and the widths of a sweep."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poa_plugin.config.load import FOR_ONE_COMMAND, load_config, save_config
from poa_plugin.config.schema import Config
from poa_plugin.config.values import path_override
from poa_plugin.errors import UserError
from poa_plugin.files import write_atomically
from poa_plugin.launch import slurm
from poa_plugin.launch.checks import (
    check_fits,
    check_not_queued,
    check_ranks,
    notice_warnings,
    plan_of,
)
from poa_plugin.launch.profile import Profile
from poa_plugin.launch.script import script_of
from poa_plugin.launch.submission import Submission, Task, commit_of, folder_for, make_folder
from poa_plugin.plan.report import Plan

CODE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Prepared:
    """What can be submitted.

    Attributes:
        submission: not yet written.
        configs: of its trainings, one for each task; none of a sweep.
        plan: what 'poa plan' says of the first of them, if the profile says what device there is.
        after: a submission whose jobs must have ended first.
    """

    submission: Submission
    configs: list[Config]
    plan: Plan | None = None
    after: Submission | None = None


def prepare_training(
    recipes: Sequence[tuple[Path, Sequence[str]]],
    seeds: Sequence[int],
    profile: Profile,
    force: bool = False,
) -> Prepared:
    """Return the submission of one training, or of an array of several.

    Args:
        recipes: files, each with its overrides.
        seeds: one training for each of them and of the recipes, in `<output_dir>_seed<N>`; the recipe's own
            if there are none.
        profile: of the jobs.
        force: take a recipe that does not fit.

    Raises:
        UserError: a recipe is wrong, its shards cannot be spread over the ranks, it does not fit the profile's
            devices, or two trainings have the same output folder.
    """
    configs = [config for recipe in recipes for config in _with_seeds(*recipe, seeds)]
    runs = [Path(config.output_dir).resolve() for config in configs]
    for run in runs:
        if runs.count(run) > 1:
            raise UserError(f"Several trainings have the output_dir '{run}': give each its own.")
    if len(configs) > 1 and profile.chain > 1:
        raise UserError("A chain (profile.chain) is of one training: submit each by itself.")
    for config in configs:
        check_ranks(config, profile)
    plans = [plan_of(config, profile) for config in configs]
    for plan in plans:
        check_fits(plan, force)
    folder = folder_for(_parent(profile, runs[0]), runs[0].name)
    tasks = [
        Task(str(run), ["train", str(folder / f"{i}.yaml"), *_consent(config)])
        for i, (run, config) in enumerate(zip(runs, configs, strict=True))
    ]
    return Prepared(_submission(folder, tasks, profile), configs, plans[0])


def prepare_sweep(
    run: Path, widths: Sequence[int], options: Sequence[str], results: Path, profile: Profile
) -> list[Prepared]:
    """Return the submissions of a sweep: an array, a job for each width, and a job that joins the results.

    Args:
        run: whose networks are evaluated.
        widths: of the networks.
        options: of `poa sweep`, without `--widths`.
        results: the folder to which the sweep writes.
        profile: of the jobs.

    Raises:
        UserError: the profile starts several ranks; a sweep takes one process.
    """
    if profile.ranks > 1:
        raise UserError(
            f"A width is swept by one process, and the profile starts {profile.ranks} ranks: set "
            f"profile.nodes=1 and profile.tasks_per_node=1."
        )
    run = run.resolve()
    parent = _parent(profile, run)
    sweep = ["sweep", str(run), *options]
    each = folder_for(parent, f"{run.name}-sweep")
    array = _submission(
        each,
        [Task(str(run), [*sweep, "--widths", str(width)], str(results)) for width in widths],
        profile,
    )
    if len(widths) == 1:
        return [Prepared(array, [])]
    join = replace(
        array,
        folder=folder_for(parent, f"{run.name}-sweep-joined"),
        tasks=[Task(str(run), [*sweep, "--widths", *map(str, widths)], str(results))],
    )
    return [Prepared(array, []), Prepared(join, [], after=array)]


def submit(prepared: Prepared) -> Submission:
    """Write a submission and hand its jobs to SLURM.

    Raises:
        UserError: SLURM refuses, or a job trains into one of the folders already.
    """
    submission = prepared.submission
    check_not_queued(submission)
    make_folder(submission.folder)
    for i, config in enumerate(prepared.configs):
        save_config(config, submission.folder / f"{i}.yaml")
    submission.write()
    script = submission.folder / "script.sh"
    write_atomically(script, script_of(submission))
    try:
        _hand_over(submission, _dependency(prepared.after))
    except UserError:
        if not submission.jobs:  # nothing can come of it
            shutil.rmtree(submission.folder)
        raise
    return submission


def resubmit(submission: Submission, tasks: Sequence[int]) -> None:
    """Hand a submission's jobs to SLURM once more, those of an array only for some tasks.

    Raises:
        UserError: SLURM refuses, or a job trains into one of the folders already.
    """
    check_not_queued(submission)
    only = [f"--array={','.join(map(str, tasks))}"] if submission.is_array else []
    _hand_over(submission, only)


def warnings_about(prepared: Prepared) -> Iterator[str]:
    """Yield sentences about what may go wrong."""
    submission = prepared.submission
    if prepared.configs:
        yield from notice_warnings([Path(t.run) for t in submission.tasks], submission.profile)
        if prepared.plan is None:
            yield (
                "Whether the recipe fits was not checked: profile.device says which GPU there is, or "
                "profile.memory how much memory a node without any has."
            )
    if submission.commit.endswith("+"):
        yield (
            f"The code has changes that are in no commit: {submission.commit[:12]} is recorded, and the job "
            f"runs the files as they are when it starts."
        )


def elsewhere(words: Sequence[str], profile: Profile) -> str:
    """Return the command that does the same without SLURM.

    Args:
        words: of `poa` after its name, such as `train vit`.
        profile: says how many ranks there are.
    """
    if words[0] != "train" or profile.ranks == 1:
        return shlex.join(["poa", *words])
    nodes = f"--nnodes {profile.nodes} --rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29500 "
    several = nodes if profile.nodes > 1 else ""
    each = f"--nproc-per-node {profile.ranks_per_node}"
    return f"torchrun {several}{each} -m poa_plugin {shlex.join(words)}"


def _hand_over(submission: Submission, options: Sequence[str]) -> None:
    """Submit the jobs of a submission: one, or a chain in which each waits for the one before."""
    for event_of in range(len(submission.tasks)):
        submission.note("submit", event_of)
    script, after = submission.folder / "script.sh", list(options)
    for _ in range(submission.profile.chain):
        job = slurm.submit(script, *after)
        submission.add_job(job)
        after = [f"--dependency=afterany:{job}"]


def _dependency(after: Submission | None) -> list[str]:
    return [f"--dependency=afterany:{':'.join(after.jobs)}"] if after is not None else []


def _with_seeds(recipe: Path, overrides: Sequence[str], seeds: Sequence[int]) -> list[Config]:
    """Return a recipe's configuration, or one for each seed."""
    config = load_config(recipe, overrides)
    if not seeds:
        return [config]
    return [
        load_config(
            recipe,
            [
                *overrides,
                f"train.seed={seed}",
                path_override("output_dir", Path(f"{config.output_dir}_seed{seed}")),
            ],
        )
        for seed in seeds
    ]


def _consent(config: Config) -> list[str]:
    """Return the overrides of what is allowed for one command, and so not saved."""
    train = config.train
    values = {
        "train.accept_changes": str(train.accept_changes).lower(),
        "train.damaged_checkpoint": train.damaged_checkpoint,
    }
    defaults = {key: str(value).lower() for key, value in FOR_ONE_COMMAND.items()}
    return [f"{key}={value}" for key, value in values.items() if value != defaults[key]]


def _parent(profile: Profile, run: Path) -> Path:
    """Return the folder of submissions."""
    return Path(profile.folder).resolve() if profile.folder else run.parent / "jobs"


def _submission(folder: Path, tasks: list[Task], profile: Profile) -> Submission:
    return Submission(folder, tasks, profile, commit_of(CODE))
