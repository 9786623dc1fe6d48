"""Commands for SLURM clusters: submit jobs, and look after them."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from poa_plugin.argument_groups import add_command, add_group
from poa_plugin.arguments import IntegerRange, path, path_text
from poa_plugin.errors import UserError
from poa_plugin.sources import check_run, overrides_of, recipe_file

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands
    from poa_plugin.launch.jobs import TaskStatus
    from poa_plugin.launch.profile import Profile
    from poa_plugin.launch.submit import Prepared

SWEEP = "sweep"
SEED, RANK = IntegerRange(0, 2**63 - 1), IntegerRange(0, 65535)
RECORDS = Path("runs/jobs")
"""Where submissions are if no profile says otherwise and runs are in `runs`."""


def submit_command(subcommands: Commands) -> None:
    """Add `poa submit`."""
    submit = add_command(
        subcommands, "submit", run_submit, "train, or sweep a run, on a SLURM cluster", writes=True
    )
    submit.add_argument(
        "targets",
        metavar="CONFIG|sweep RUN|key=value",
        nargs="+",
        help="recipes as 'poa train' takes them, several are an array, and overrides; or 'sweep', a run, and "
        "sweep.option=value",
    )
    submit.add_argument(
        "--profile",
        required=True,
        nargs="+",
        metavar="FILE|profile.key=value",
        help="what to ask the cluster for: a profile's name or a YAML file, and overrides",
    )
    submit.add_argument(
        "--seeds", nargs="+", type=SEED, default=[], metavar="N", help="a run for each"
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="print the batch script and the plan, submit nothing"
    )
    submit.add_argument(
        "--force", action="store_true", help="even if 'poa plan' says that it does not fit"
    )


def run_submit(arguments: argparse.Namespace) -> None:
    """Submit, or print what would be submitted."""
    from poa_plugin.config.values import is_override
    from poa_plugin.launch import slurm
    from poa_plugin.launch.profile import load_profile
    from poa_plugin.launch.submit import elsewhere, submit, warnings_about

    is_sweep = arguments.targets[0] == SWEEP
    is_option = is_sweep_option if is_sweep else is_override
    targets = [target for target in arguments.targets if not is_option(target)]
    overrides = [target for target in arguments.targets if is_option(target)]
    profile = load_profile(path_text(arguments.profile[0]), arguments.profile[1:])
    if is_sweep:
        prepared, words = _sweep(arguments, targets[1:], overrides, profile)
    else:
        prepared, words = _training(arguments, targets, overrides, profile)
    for each in prepared:
        for warning in warnings_about(each):
            print(f"poa: warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        _print_scripts(prepared)
        return
    if not slurm.is_here():
        here = " and ".join(f"`{elsewhere(command, profile)}`" for command in words)
        raise UserError(
            f"There is no SLURM on this machine ('sbatch' is not on the PATH). {here} does the same."
        )
    for each in prepared:
        submission = submit(each)
        print(f"Submitted {', '.join(submission.jobs)}: '{submission.folder}'.")
    print("'poa jobs' says how far it is.")


def jobs_command(subcommands: Commands) -> None:
    """Add `poa jobs`."""
    jobs = add_group(
        subcommands,
        "jobs",
        "ACTION",
        "list, cancel, resume or read the jobs of 'poa submit'",
        is_optional=True,
    )
    jobs_parser = subcommands.choices["jobs"]
    jobs_parser.set_defaults(run=run_jobs, writes=False)
    _add_records(jobs_parser)
    cancel = add_command(jobs, "cancel", run_cancel, "cancel jobs", writes=True)
    resume = add_command(
        jobs, "resume", run_resume, "submit again what has not finished", writes=True
    )
    logs = add_command(jobs, "logs", run_logs, "print the output of a rank")
    means = "its id, the name of its submission, or the folder of its run"
    cancel.add_argument("names", metavar="JOB", nargs="+", help=means)
    resume.add_argument("name", metavar="JOB", help=means)
    logs.add_argument("name", metavar="JOB", help=means)
    for parser in (cancel, resume, logs):
        _add_records(parser)
    logs.add_argument("--rank", type=RANK, default=0, metavar="N", help="whose output")


def run_jobs(arguments: argparse.Namespace) -> None:
    """Print a table of all jobs."""
    from poa_plugin.launch.jobs import say_without_slurm, table

    say_without_slurm()
    statuses = _statuses(arguments)
    if statuses:
        print(table(statuses))
    else:
        print(f"There are no jobs{_searched(arguments)}: 'poa submit' makes some.")


def run_cancel(arguments: argparse.Namespace) -> None:
    """Cancel jobs."""
    from poa_plugin.launch.jobs import cancel, chosen

    statuses = _statuses(arguments)
    for named in [chosen(statuses, name) for name in arguments.names]:
        print(f"Cancelled {', '.join(cancel(named))}.")


def run_resume(arguments: argparse.Namespace) -> None:
    """Submit again what has ended before it had finished."""
    from poa_plugin.launch.jobs import chosen, to_resume
    from poa_plugin.launch.submit import resubmit

    named = chosen(_statuses(arguments), arguments.name)
    resubmit(named[0].submission, to_resume(named))
    print(f"Submitted {named[0].submission.jobs[-1]}: '{named[0].submission.folder}'.")


def run_logs(arguments: argparse.Namespace) -> None:
    """Print what a rank has printed."""
    from poa_plugin.launch.jobs import chosen, log_files

    named = chosen(_statuses(arguments), arguments.name)
    if len(named) > 1:
        raise UserError(
            f"'{arguments.name}' is an array: give one of {', '.join(s.name for s in named)}."
        )
    for file in log_files(named[0], arguments.rank):
        print(file.read_text(encoding="utf-8", errors="replace"), end="")


def _training(
    arguments: argparse.Namespace, recipes: list[str], overrides: list[str], profile: Profile
) -> tuple[list[Prepared], list[list[str]]]:
    """Return what is submitted, and the commands that do the same here."""
    from poa_plugin.launch.submit import prepare_training

    if not recipes:
        raise UserError(
            "'poa submit' needs a recipe, a YAML file or a run's folder, or 'sweep RUN'."
        )
    if len(arguments.seeds) != len(set(arguments.seeds)):
        raise UserError("--seeds names a seed twice.")
    files = [recipe_file(recipe, "poa submit") for recipe in recipes]
    of_each = []
    for recipe, file in zip(recipes, files, strict=True):
        command = argparse.Namespace(config=recipe, overrides=overrides)
        of_each.append((file, overrides_of(command, file)))
    prepared = prepare_training(of_each, arguments.seeds, profile, arguments.force)
    seeds = [[f"train.seed={seed}"] for seed in arguments.seeds] or [[]]
    words = [["train", recipe, *overrides, *seed] for recipe in recipes for seed in seeds]
    return [prepared], words


def _sweep(
    arguments: argparse.Namespace, runs: list[str], overrides: list[str], profile: Profile
) -> tuple[list[Prepared], list[list[str]]]:
    """Return what is submitted, and the command that does the same here."""
    from poa_plugin.launch.submit import prepare_sweep
    from poa_plugin.runs.run import open_run

    if len(runs) != 1:
        raise UserError(
            f"'poa submit sweep' takes the folder of one run, and options of 'poa sweep' as in "
            f"sweep.no_latency=true; it got {', '.join(runs) or 'none'}."
        )
    run = Path(path_text(runs[0]))
    check_run(run)
    options = _sweep_options(overrides)
    sweep = arguments.main_parser.parse_args([SWEEP, str(run), *options])
    widths = sweep.widths or sorted({subnet.width for subnet in open_run(run).space})
    for width in (position for position, word in enumerate(options) if word == "--widths"):
        del options[width : width + 1 + len(sweep.widths)]
    results = (sweep.to or run / "eval").resolve()
    return (
        prepare_sweep(run, widths, options, results, profile),
        [[SWEEP, str(run), *_sweep_options(overrides)]],
    )


def is_sweep_option(text: str) -> bool:
    """Return whether an argument is an option of `poa sweep`, such as `sweep.no_latency=true`."""
    return text.startswith(f"{SWEEP}.") and "=" in text


def _sweep_options(overrides: list[str]) -> list[str]:
    """Return options of `poa sweep` from `sweep.option=value`: `--no-latency`, `--data PATH key=value`, ..."""
    options = []
    for override in overrides:
        name, _, value = override.partition("=")
        option = f"--{name.removeprefix('sweep.').replace('_', '-')}"
        options += [option] if value == "true" else [option, *shlex.split(value)]
    return options


def _print_scripts(prepared: list[Prepared]) -> None:
    from poa_plugin.launch.script import script_of

    for each in prepared:
        print(script_of(each.submission))
        for task in each.submission.tasks:
            print(f"# poa {shlex.join(task.arguments)}")
        if each.plan is not None:
            print(f"\n{each.plan.text()}")


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--in",
        dest="records",
        type=path,
        metavar="FOLDER",
        help=f"of submissions; those that SLURM knows of, and {RECORDS}, if left out",
    )


def _statuses(arguments: argparse.Namespace) -> list[TaskStatus]:
    from poa_plugin.launch.jobs import jobs_of

    folder = arguments.records or (RECORDS if RECORDS.is_dir() else None)
    if folder is not None and not folder.is_dir():
        raise UserError(f"There is no folder '{folder}'.")
    return jobs_of(folder)


def _searched(arguments: argparse.Namespace) -> str:
    return f" in '{arguments.records}'" if arguments.records else ""
