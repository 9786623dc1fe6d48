"""A SLURM cluster of two pretended nodes on this machine, and jobs of seconds on it.

It is brought up by `shared/slurm_lab/up.sh`, beside the repository, which needs root and Debian's packages.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.launch.submission import Submission, read_submission
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT.parent / "shared/slurm_lab"
STEPS = 24
RECIPE = [
    *SMALL,
    "imports=[tests.launch.faults]",
    "data.dataset=slow_blobs",
    "train.shards=4",
    "train.batch_size_per_shard=1",
    f"train.OFFICIAL_EPOCH_LENGTH={STEPS // 2}",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "train.checkpoint_period=4",
    "train.keep_checkpoints=3",
    "train.log_period=1",
    "train.loggers=[]",
    "train.threads=1",
    "train.precision=fp32",
    "train.timeout_s=60",
]


def is_possible() -> bool:
    """Return whether a cluster can be brought up here: its script is there, and packages can be installed."""
    return (
        (SCRIPTS / "up.sh").exists() and os.geteuid() == 0 and shutil.which("apt-get") is not None
    )


@dataclass
class Lab:
    """A cluster that runs.

    Attributes:
        folder: of its files.
        runs: for the tests' runs.
    """

    folder: Path
    runs: Path

    def __post_init__(self) -> None:
        self.runs.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_"))},
            "SLURMLAB": str(self.folder),
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def up(self) -> None:
        """Bring it up, from nothing; SLURM's state of an earlier one is forgotten."""
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        done = self._call(["bash", str(SCRIPTS / "up.sh")], timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stop it."""
        if (self.folder / "etc/slurm.conf").exists():
            self._call(["bash", str(SCRIPTS / "down.sh")], timeout=60)

    def call(self, *command: str) -> str:
        """Return what a command prints; it must not fail."""
        done = self._call(list(command))
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def clear(self) -> None:
        """Cancel all jobs, and wait until the nodes are free."""
        self.call("scancel", "--me")
        end = time.monotonic() + 60
        while self.call("squeue", "--noheader"):
            assert time.monotonic() < end, "jobs remain"
            time.sleep(0.5)

    def bring_back(self, node: str) -> None:
        """Return a node to service, unless it has come back by itself."""
        self._call(["scontrol", "update", f"nodename={node}", "state=resume"])

    def poa(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `poa`."""
        return self._call([sys.executable, "-m", "poa_plugin", *arguments])

    def submit(
        self,
        name: str,
        *overrides: str,
        environment: Mapping[str, str] | None = None,
        profile: tuple[str, ...] = (),
        recipe: tuple[str, ...] = ("vit",),
        options: tuple[str, ...] = (),
    ) -> Job:
        """Submit a training into `runs/<name>`, a rank on each of two nodes unless the profile says else."""
        variables = {"PYTHONPATH": str(ROOT), **(environment or {})}
        done = self.poa(
            "submit",
            *recipe,
            *RECIPE,
            *overrides,
            f"output_dir={self.runs / name}",
            *options,
            "--profile",
            "cpu",
            "profile.tasks_per_node=1",
            "profile.memory=null",
            "profile.signal_delay_s=15",
            "profile.time=30:00",
            f"profile.folder={self.runs / 'jobs'}",
            *(f"profile.environment.{key}={value}" for key, value in variables.items()),
            *profile,
        )
        assert done.returncode == 0, done.stderr
        folders = re.findall(r"Submitted [\d, ]+: '(.*)'", done.stdout)
        return Job(self, read_submission(Path(folders[0])), self.runs / name)

    def submit_sweep(self, run: Path, *options: str) -> list[Job]:
        """Submit a sweep of a run; return its array, and the job that joins the results."""
        done = self.poa(
            "submit",
            "sweep",
            str(run),
            *options,
            "--profile",
            "one_gpu",
            "profile.gpus_per_node=0",
            "profile.device=null",
            "profile.cpus_per_task=1",
            "profile.memory=null",
            f"profile.folder={self.runs / 'jobs'}",
            f"profile.environment.PYTHONPATH={ROOT}",
        )
        assert done.returncode == 0, done.stderr
        folders = re.findall(r"Submitted [\d, ]+: '(.*)'", done.stdout)
        return [Job(self, read_submission(Path(folder)), run) for folder in folders]

    def _call(self, command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.runs,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@dataclass
class Job:
    """A submission in the lab."""

    lab: Lab
    submission: Submission
    run: Path

    @property
    def id(self) -> str:
        """The id of its last job."""
        return self.submission.jobs[-1]

    def events(self, task: int | None = None) -> list[str]:
        """Return what has happened."""
        return [event["event"] for event in self.submission.events(task)]

    def requeues(self) -> int:
        """Return how often SLURM has requeued it."""
        shown = self.lab.call("scontrol", "show", "job", self.id)
        return int(re.findall(r"Restarts=(\d+)", shown)[0])

    def state(self) -> str:
        """Return SLURM's state of it."""
        return self.lab.call("squeue", "-h", "-t", "all", "-j", self.id, "-o", "%T").split()[0]

    def steps_done(self) -> int:
        """Return how many steps are in its metrics."""
        file = self.run / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 240) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (
                f"{self.run.name}: not {what} in {seconds} s\n{self.said()}"
            )
            time.sleep(0.1)

    def reach(self, step: int) -> None:
        """Wait until a step is done."""
        self.wait(lambda: self.steps_done() >= step, f"at step {step}")

    def finish(self, tasks: int = 1) -> None:
        """Wait until all its tasks have ended well, and SLURM says so."""
        self.wait(lambda: self.events().count("finish") == tasks, "finished", 400)
        self.wait(lambda: self.state() == "COMPLETED", "completed")

    def ranks(self) -> dict[int, int]:
        """Return the processes of its ranks: process by rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"poa_plugin.slurm_rank" in words and str(self.submission.folder).encode() in words:
                of = dict(variable.partition(b"=")[::2] for variable in variables)
                if words[0].endswith(b"python") or b"python" in words[0]:
                    found[int(of.get(b"SLURM_PROCID", b"-1"))] = int(entry.name)
        found.pop(-1, None)
        return found

    def kill(self, rank: int) -> None:
        """Kill a rank."""
        os.kill(self.ranks()[rank], signal.SIGKILL)

    def said(self) -> str:
        """Return its logs, and events."""
        logs = sorted((self.submission.folder / "logs").glob("*.out"))
        events = self.submission.folder / "events.jsonl"
        files = [*logs, *([events] if events.exists() else [])]
        return "\n".join(
            f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files
        )
