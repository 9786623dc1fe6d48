"""`poa submit` and `poa jobs`: scripts, records, and what is refused."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.config.load import load_config
from poa_plugin.launch import slurm
from poa_plugin.launch.progress import progress_of
from poa_plugin.launch.submission import Submission, submissions_in
from tests.command_checks import fails
from tests.conftest import SMALL
from tests.evaluate.small_runs import trained_run
from tests.launch.fake_slurm import FakeSlurm

TRAINING = [*SMALL, "train.shards=4", "data.path=images"]
CPU = ["--profile", "cpu", "profile.memory=8G"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def submitted(*arguments: str) -> Submission:
    """Submit; return the newest record."""
    assert main(["submit", *arguments]) == 0
    return submissions_in(Path("runs/jobs").resolve())[-1]


@pytest.mark.parametrize(
    ("profile", "directives"),
    [
        (
            "published",
            ["nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "signal=USR2@300", "requeue"],
        ),
        ("one_node", ["nodes=1", "ntasks-per-node=8", "mem=0"]),
        ("one_gpu", ["ntasks-per-node=1", "gpus-per-node=1", "time=720"]),
        ("cpu", ["nodes=2", "ntasks-per-node=2", "cpus-per-task=1"]),
    ],
)
def test_a_dry_run_prints_script_and_plan_without_slurm(
    profile: str,
    directives: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "is_here", lambda: False)
    assert (
        main(
            [
                "submit",
                "vit",
                *SMALL,
                "train.shards=32",
                "train.device=auto",
                "--profile",
                profile,
                "--dry-run",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert set(directives) <= {line.removeprefix("#SBATCH --") for line in text.splitlines()}
    assert "fits: " in text
    assert "poa_plugin.slurm_rank" in text
    assert not Path("runs").exists()
    script = text[: text.index("# poa train")]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0


def test_everything_of_a_profile_is_in_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    fields = [
        "gpus_by=gres",
        "gpu_type=a100",
        "partition=gpu",
        "account=vision",
        "qos=high",
        "constraint=nvlink",
        "exclude=n[3-4]",
        "environment.A=two words",
        "setup=[module load cuda]",
        "stage=cp -r /shared /local",
        "command_prefix=apptainer exec x.sif",
        "sbatch=[--mail-type=FAIL, --exclusive]",
        "srun=[--mpi=none]",
        "requeue=false",
        "kill_on_bad_exit=false",
        "python=/opt/python",
        "device=null",
    ]
    overrides = [f"profile.{each}" for each in fields]
    assert main(["submit", "vit", "--profile", "published", *overrides, "--dry-run"]) == 0
    text = capsys.readouterr().out
    for part in (
        "--gres=gpu:a100:8",
        "--partition=gpu",
        "--account=vision",
        "--qos=high",
        "--constraint=nvlink",
        "--exclude='n[3-4]'",
        "export A='two words'",
        "\nmodule load cuda\n",
        "--ntasks-per-node=1 bash -c 'cp -r /shared /local' || exit 1",
        " apptainer exec x.sif /opt/python -m poa_plugin.slurm_rank",
        "--mail-type=FAIL",
        "#SBATCH --exclusive\n",
        "--mpi=none",
        "#SBATCH --no-requeue\n",
        "--kill-on-bad-exit=0",
    ):
        assert part in text, part


def test_what_is_submitted_is_recorded(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    record = submitted("vit", *TRAINING, "output_dir=runs/a", "train.accept_changes=true", *CPU)
    assert record.jobs == ["11"]
    assert f"Submitted 11: '{record.folder}'." in capsys.readouterr().out
    (task,) = record.tasks
    assert task.run == str(Path("runs/a").resolve())
    assert task.arguments == ["train", str(record.folder / "0.yaml"), "train.accept_changes=true"]
    config = load_config(record.folder / "0.yaml")
    assert (config.output_dir, config.train.shards) == ("runs/a", 4)
    assert len(record.commit.rstrip("+")) == 40
    assert "sbatch" in fake_slurm.asked[-1][0]
    assert (record.folder / "script.sh").read_text().startswith("#!/bin/bash")


def test_seeds_and_recipes_are_one_array(fake_slurm: FakeSlurm) -> None:
    record = submitted("vit", *TRAINING, "output_dir=runs/a", "--seeds", "3", "5", *CPU)
    assert [Path(task.run).name for task in record.tasks] == ["a_seed3", "a_seed5"]
    assert [load_config(record.folder / f"{i}.yaml").train.seed for i in range(2)] == [3, 5]
    assert "--array=0-1%2" in (record.folder / "script.sh").read_text()
    assert list(fake_slurm.jobs) == ["11_0", "11_1"]
    two = submitted("vit", "dinov2_vit", "train.shards=4", *CPU, "profile.memory=null")
    assert [Path(task.run).name for task in two.tasks] == ["vit", "dinov2_vit"]


def test_a_chain_is_of_jobs_after_one_another(fake_slurm: FakeSlurm) -> None:
    record = submitted("vit", *TRAINING, *CPU, "profile.requeue=false", "profile.chain=3")
    assert record.jobs == ["11", "12", "13"]
    dependencies = [
        option for command in fake_slurm.asked for option in command if "dependency" in option
    ]
    assert dependencies == ["--dependency=afterany:11", "--dependency=afterany:12"]


def test_a_sweep_is_an_array_and_a_job_that_joins(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    options = ["sweep.no_latency=true", "sweep.k=1 2"]
    alone = [
        "--profile",
        "cpu",
        "profile.nodes=1",
        "profile.tasks_per_node=1",
        f"profile.folder={tmp_path / 'jobs'}",
    ]
    assert main(["submit", "sweep", str(run), *options, *alone]) == 0
    array, join = submissions_in(tmp_path / "jobs")
    widths = [24, 32, 40, 48]
    shared = ["sweep", str(run), "--no-latency", "--k", "1", "2", "--widths"]
    assert [task.arguments for task in array.tasks] == [[*shared, str(width)] for width in widths]
    assert [task.arguments for task in join.tasks] == [[*shared, *map(str, widths)]]
    assert "--dependency=afterany:11" in fake_slurm.asked[-1]
    assert main(["submit", "sweep", str(run), "sweep.widths=32", *alone]) == 0
    last = submissions_in(tmp_path / "jobs")[-1]
    assert [task.arguments for task in last.tasks] == [["sweep", str(run), "--widths", "32"]]


def test_without_slurm_the_same_command_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "is_here", lambda: False)
    sentence = fails(capsys, "submit", "vit", *TRAINING, *CPU)
    assert "There is no SLURM on this machine" in sentence
    words = shlex.split(sentence.split("`")[1])
    assert words[:8] == shlex.split(
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29500 --nproc-per-node"
    )
    assert words[8:] == ["2", "-m", "poa_plugin", "train", "vit", *TRAINING]
    one = fails(
        capsys, "submit", "vit", *TRAINING, *CPU, "profile.nodes=1", "profile.tasks_per_node=1"
    )
    assert f"`{shlex.join(['poa', 'train', 'vit', *TRAINING])}` does the same." in one


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["vit", "train.shards=6", *CPU],
            "4 ranks (2 x 2), which cannot share the 6 shards of a step",
        ),
        (
            ["vit", *TRAINING, "--profile", "cpu", "profile.memory=100M"],
            "'poa plan' says that the recipe does not fit",
        ),
        (["vit", "vit", *CPU], "Several trainings have the output_dir"),
        (["vit", *TRAINING, *CPU, "profile.nodez=2"], "did you mean 'profile.nodes'"),
        (
            ["vit", *TRAINING, *CPU, "profile.time=1", "profile.signal_delay_s=90"],
            "could not take a step",
        ),
        (["vit", *TRAINING, "--profile", "nowhere"], "There is no profile 'nowhere'"),
        (["vti", *CPU], "did you mean 'vit'"),
        (["train.shards=4", *CPU], "needs a recipe"),
        (["sweep", *CPU], "it got none"),
        (["sweep", "nowhere", *CPU], "is not the output folder of a run"),
        (["vit", *TRAINING, "--seeds", "1", "1", *CPU], "--seeds names a seed twice"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    arguments: list[str], sentence: str, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in fails(capsys, "submit", *arguments)
    assert not fake_slurm.jobs
    assert not Path("runs/jobs").exists()


def test_a_recipe_that_does_not_fit_can_be_forced(fake_slurm: FakeSlurm) -> None:
    submitted("vit", *TRAINING, "--profile", "cpu", "profile.memory=100M", "--force")
    assert list(fake_slurm.jobs) == ["11"]


def test_what_slurm_refuses_leaves_no_record(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.refusal = "invalid partition specified: nowhere"
    sentence = fails(capsys, "submit", "vit", *TRAINING, *CPU)
    assert "SLURM does not take the job: invalid partition specified: nowhere." in sentence
    assert not list(Path("runs/jobs").iterdir())


def test_a_run_is_not_queued_twice(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted("vit", *TRAINING, "output_dir=runs/a", *CPU)
    sentence = fails(capsys, "submit", "vit", *TRAINING, "output_dir=runs/a", *CPU)
    assert "The job 11 (pending) already trains into" in sentence
    fake_slurm.end("11", "FAILED")
    assert submitted("vit", *TRAINING, "output_dir=runs/a", *CPU).jobs == ["12"]


@pytest.mark.parametrize(
    ("longest", "partition", "warning"),
    [
        (None, "gpu", "Nothing is known yet of how long a step and a checkpoint"),
        ({"step": 100.0, "checkpoint": 30.0}, "gpu", "saves 120 s|told to save 120 s"),
        ({"step": 1.0, "checkpoint": 2.0}, "preempt", "can be preempted 20 s after"),
        ({"step": 1.0, "checkpoint": 2.0}, "gpu", ""),
    ],
)
def test_notices_that_are_too_short_are_warned_of(
    longest: dict[str, float] | None,
    partition: str,
    warning: str,
    fake_slurm: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("runs/a").mkdir(parents=True)
    if longest is not None:
        Path("runs/a/longest.json").write_text(json.dumps(longest))
    submitted("vit", *TRAINING, "output_dir=runs/a", *CPU, f"profile.partition={partition}")
    printed = [line for line in capsys.readouterr().err.splitlines() if "in no commit" not in line]
    if warning:
        assert any(part in " ".join(printed) for part in warning.split("|"))
    else:
        assert not printed


def test_jobs_are_listed_cancelled_and_resumed(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    record = submitted("vit", *TRAINING, "output_dir=runs/a", *CPU)
    run = Path("runs/a")
    run.mkdir()
    (run / "config.yaml").write_text((record.folder / "0.yaml").read_text())
    line = {
        "step": 9,
        "loss": 2.5,
        "images_per_second": 12.0,
        "data_seconds": 0.5,
        "step_seconds": 1.5,
    }
    (run / "metrics.jsonl").write_text(f'{json.dumps(line)}\n{{"step": 1')
    total = load_config(run / "config.yaml")
    steps = total.optim.epochs * total.train.OFFICIAL_EPOCH_LENGTH
    progress = progress_of(run)
    assert progress is not None
    assert (progress.step, progress.total, progress.seconds_left) == (10, steps, 2.0 * (steps - 10))

    assert rows(capsys) == [
        ["11", record.name, "PENDING", f"10/{steps}", "-", "-", "2.500", "0", "Resources"]
    ]
    fake_slurm.jobs["11"][:2] = ["RUNNING", "None"]
    ((_, _, state, _, rate, left, *_),) = rows(capsys)
    assert (state, rate, left) == ("RUNNING", "12.0", "6d 9:46:20")
    assert main(["jobs", "cancel", "runs/a"]) == 0
    assert "Cancelled 11." in capsys.readouterr().out
    assert rows(capsys)[0][2] == "CANCELLED"
    assert "neither waits nor runs" in fails(capsys, "jobs", "cancel", "11")
    assert main(["jobs", "resume", record.name]) == 0
    assert "Submitted 12" in capsys.readouterr().out
    assert "is pending: it needs no resuming" in fails(capsys, "jobs", "resume", record.name)


def test_only_what_has_not_finished_of_an_array_is_resumed(fake_slurm: FakeSlurm) -> None:
    record = submitted("vit", *TRAINING, "output_dir=runs/a", "--seeds", "0", "1", "2", *CPU)
    for task in (0, 2):
        record.note("finish", task)
    for job in fake_slurm.jobs:
        fake_slurm.end(job, "FAILED")
    assert main(["jobs", "resume", record.name]) == 0
    assert list(fake_slurm.jobs)[3:] == ["12_1"]


def test_logs_are_by_rank(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    record = submitted("vit", *TRAINING, "output_dir=runs/a", *CPU)
    assert "nothing has run" in fails(capsys, "jobs", "logs", "11")
    for rank in range(2):
        (record.folder / f"logs/11_{rank}_log.out").write_text(f"of rank {rank}\n")
    assert main(["jobs", "logs", "11", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "of rank 1\n"
    assert "logs of the ranks 0, 1" in fails(capsys, "jobs", "logs", "11", "--rank", "5")


def test_without_jobs(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0
    assert capsys.readouterr().out == "There are no jobs: 'poa submit' makes some.\n"
    assert "There is no job '3'" in fails(capsys, "jobs", "cancel", "3")
    assert "There is no folder 'nowhere'" in fails(capsys, "jobs", "--in", "nowhere")


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the cells that `poa jobs` prints, without the heading."""
    capsys.readouterr()
    assert main(["jobs"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
