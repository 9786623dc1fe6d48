"""Profiles: what a job asks a SLURM cluster for, and what becomes of it when it ends early."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from poa_plugin.config import overlay
from poa_plugin.config.fields import choice, mapping, number, path, switch, text
from poa_plugin.config.interpolation import resolve_in_place, unresolved_values
from poa_plugin.config.keys import section_of
from poa_plugin.config.load import raise_problems
from poa_plugin.config.ranges import value_problem
from poa_plugin.config.recipes import is_bare
from poa_plugin.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
PREFIX = "profile."
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass
class Profile:
    """A profile; it leaves out what the cluster's defaults are good enough for."""

    nodes: int = number(1, "hosts of a job", at_least=1, at_most=4096)
    tasks_per_node: int | None = number(
        None,
        "ranks of a node; its GPUs, or 1 without any, if null",
        at_least=1,
        at_most=256,
        synonyms=("ntasks_per_node",),
    )
    gpus_per_node: int = number(0, "GPUs of a node", at_least=0, at_most=256, synonyms=("gpus",))
    gpus_by: str = choice(
        "gpus-per-node",
        ("gpus-per-node", "gres", "gpus-per-task"),
        "the option of sbatch that asks for GPUs; with gpus-per-task each rank sees its own only",
        synonyms=("gres",),
    )
    gpu_type: str | None = text(None, "type of the GPUs, as the cluster calls it")
    device: str | None = text(
        None, "the GPU as 'poa plan --device' knows it; then a recipe that does not fit is refused"
    )
    cpus_per_task: int = number(
        1, "CPUs of a rank; data.num_workers of them read images", at_least=1, at_most=1024
    )
    memory: str | None = text(None, "of a node, such as 480G; 0 is all of it", synonyms=("mem",))
    partition: str | None = text(None, "where the job waits", synonyms=("queue",))
    account: str | None = text(None, "which is charged")
    qos: str | None = text(None, "quality of service")
    constraint: str | None = text(None, "features that nodes must have")
    exclude: str | None = text(None, "nodes that are not to be used")
    time: str = text(
        "24:00:00",
        "limit of a job as SLURM writes it: minutes, H:M:S, D-H:M:S",
        synonyms=("timeout",),
    )
    signal_delay_s: int = number(
        300,
        "seconds before the limit at which the run is told to save",
        at_least=1,
        at_most=86400,
        unit="seconds",
    )
    requeue: bool = switch(True, "requeue a job that saved and stopped; or else use `chain`")
    chain: int = number(
        1,
        "jobs, each after the one before, where requeueing is forbidden",
        at_least=1,
        at_most=1000,
    )
    max_restarts: int = number(
        3,
        "restarts after a crash that left a newer checkpoint, or after a stop with nothing to save",
        at_least=0,
        at_most=1000,
    )
    kill_on_bad_exit: bool = switch(True, "end all ranks when one has crashed")
    array_parallelism: int = number(
        16, "jobs of an array that run at once", at_least=1, at_most=10000
    )
    environment: dict[str, str] = mapping("variables of the job, by name", synonyms=("env",))
    setup: list[str] = text([], "shell lines before the run, such as 'module load cuda'")
    stage: str | None = text(
        None, "a command that each node runs once before the ranks, such as a copy to its disk"
    )
    command_prefix: str | None = text(
        None,
        "before Python in each rank, such as 'apptainer exec --nv image.sif'",
        synonyms=("container",),
    )
    python: str | None = text(None, "the interpreter; the present one if null")
    folder: str | None = path(
        None, "for scripts, records and logs, shared by all nodes; `jobs` beside the run if null"
    )
    sbatch: list[str] = text([], "further options of sbatch, such as '--mail-type=FAIL'")
    srun: list[str] = text([], "further options of srun, such as '--mpi=none'")

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Ranks of a job."""
        return self.nodes * self.ranks_per_node

    @property
    def minutes(self) -> int:
        """The time limit in minutes, seconds rounded up."""
        return limit_in_minutes(self.time)


def load_profile(name: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile and lay `profile.key=value` overrides over it.

    Args:
        name: a YAML file, or the name of a profile that comes with the package, such as `one_gpu`.
        overrides: such as `profile.nodes=2`.

    Raises:
        UserError: the file cannot be read, a field is unknown (the nearest one is named), a value is wrong, or
            fields contradict one another.
    """
    tree = section_of(Profile, PREFIX.rstrip("."))
    config = OmegaConf.create({"profile": OmegaConf.structured(Profile)})
    overlays = [
        overlay.from_file(profile_path(name)),
        overlay.from_overrides([override.removeprefix(PREFIX) for override in overrides]),
    ]
    given = overlay.gather(overlays, tree)
    problems = overlay.assign(config, given, tree)
    problems |= resolve_in_place(config, tree)
    for key, value in unresolved_values(config, tree):
        problem = key.name not in problems and value_problem(key, value)
        if problem:
            problems[key.name] = problem
    raise_problems([*given.problems, *problems.values()])
    profile = cast(Profile, OmegaConf.to_object(config.profile))
    raise_problems(list(_contradictions(profile)))
    return profile


def profile_path(name: str | Path) -> Path:
    """Return the file of a profile by its name, such as `one_gpu`, or as a path.

    Raises:
        UserError: there is none of that name.
    """
    known = profile_names()
    if is_bare(str(name)) and str(name) in known:
        return profile_folder() / f"{name}.yaml"
    if is_bare(str(name)) and not Path(name).exists():
        raise UserError(f"There is no profile '{name}': {did_you_mean(str(name), known)}.")
    return Path(name)


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(file.stem for file in profile_folder().glob("*.yaml"))


def profile_folder() -> Path:
    """Return where the profiles are: in an installed package, or beside it in a clone."""
    installed = PACKAGE / "profiles"
    return installed if installed.is_dir() else PACKAGE.parent / "slurm"


def limit_in_minutes(limit: str) -> int:
    """Return a time limit of SLURM in minutes: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`.

    Raises:
        UserError: it has another form, or is 0.
    """
    match = TIME.fullmatch(limit.strip())
    if not match:
        raise UserError(
            f"The key 'profile.time' is '{limit}': SLURM writes a limit as minutes, 'H:M:S' or 'D-H:M:S'."
        )
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    total = int(days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60
    if total == 0:
        raise UserError(f"The key 'profile.time' is '{limit}': it must be a minute or more.")
    return total


def _contradictions(profile: Profile) -> list[str]:
    """Return sentences about fields that contradict one another."""
    problems = []
    if 60 * profile.minutes <= profile.signal_delay_s:
        problems.append(
            f"The job's limit is {60 * profile.minutes} s (profile.time={profile.time}) and it would be told "
            f"to save {profile.signal_delay_s} s before (profile.signal_delay_s): it could not take a step."
        )
    if profile.requeue and profile.chain > 1:
        problems.append(
            "profile.chain is for clusters that forbid requeueing: set profile.requeue=false with it."
        )
    if profile.gpu_type and not profile.gpus_per_node:
        problems.append("profile.gpu_type names GPUs, and profile.gpus_per_node is 0.")
    if profile.gpus_by == "gpus-per-task" and profile.gpus_per_node not in (
        0,
        profile.ranks_per_node,
    ):
        problems.append(
            f"With profile.gpus_by=gpus-per-task a rank has one GPU: profile.gpus_per_node is "
            f"{profile.gpus_per_node} and profile.tasks_per_node {profile.ranks_per_node}."
        )
    for option in (*profile.sbatch, *profile.srun):
        if not option.startswith("-"):
            problems.append(f"'{option}' in profile.sbatch or srun is no option: it has no dash.")
    return problems
