"""What becomes of a job, by what its ranks left behind."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from poa_plugin.launch import supervisor
from poa_plugin.launch.profile import Profile
from poa_plugin.launch.slurm_variables import rank_variables
from poa_plugin.launch.stops import NOT_STARTED
from poa_plugin.launch.submission import REQUEUE, Submission, Task, make_folder, read_submission
from poa_plugin.launch.supervisor import decide


class Story:
    """A job's attempts, told one after another.

    Args:
        folder: for its files.
        monkeypatch: of the test.
        profile: of the job.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
        self.run, self.monkeypatch, self.restart = folder / "run", monkeypatch, -1
        self.submission = Submission(folder / "jobs/a", [Task(str(self.run), ["train"])], profile)
        make_folder(self.submission.folder)
        self.submission.write()
        monkeypatch.setenv("SLURM_JOB_ID", "7")

    def start(self) -> None:
        self.restart += 1
        self.monkeypatch.setenv("SLURM_RESTART_COUNT", str(self.restart))
        self.submission.note("start", 0, mark=self.submission.tasks[0].mark())

    def save(self, step: int) -> None:
        (self.run / "ckpt" / str(step)).mkdir(parents=True)

    def end(self, status: int) -> int:
        return supervisor.main(self.submission.folder, status)


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch, Profile(max_restarts=2))


@pytest.mark.parametrize("status", [0, 134])
def test_a_job_that_has_finished_ends(story: Story, status: int) -> None:
    """A rank that crashes while it leaves takes nothing away."""
    story.start()
    story.submission.note("finish", 0)
    assert story.end(status) == 0
    assert story.submission.events()[-1]["reason"] == "has finished"


def test_stops_with_a_newer_checkpoint_are_not_counted(story: Story) -> None:
    for step in range(1, 6):
        story.start()
        story.save(step)
        story.submission.note("stop", 0, signal=signal.SIGUSR2)
        assert story.end(0) == REQUEUE
    assert not any(event.get("is_restart") for event in story.submission.events())


@pytest.mark.parametrize("status", [NOT_STARTED, 128 + signal.SIGUSR2, 128 + signal.SIGTERM])
def test_stops_before_anything_could_be_saved_are_counted(story: Story, status: int) -> None:
    story.save(4)  # by an earlier job
    for _ in range(2):
        story.start()
        assert story.end(status) == REQUEUE
    story.start()
    assert story.end(status) == status
    assert "after 2 restarts" in story.submission.events()[-1]["reason"]


def test_crashes_restart_from_a_newer_checkpoint_only(story: Story) -> None:
    story.start()
    story.save(2)
    assert story.end(137) == REQUEUE
    story.start()
    assert story.end(137) == 137
    assert "it would do so again" in story.submission.events()[-1]["reason"]


def test_crashes_restart_so_often(story: Story) -> None:
    for step in (1, 2):
        story.start()
        story.save(step)
        assert story.end(2) == REQUEUE
    story.start()
    story.save(3)
    assert story.end(2) == 2


def test_a_crash_before_the_start_was_noted_is_not_taken_for_an_earlier_attempt(
    story: Story,
) -> None:
    story.start()
    story.save(2)
    assert story.end(137) == REQUEUE
    story.monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert story.end(1) == 1


def test_ranks_that_leave_without_a_word(story: Story) -> None:
    story.start()
    assert story.end(0) == 1


def test_resuming_by_hand_counts_anew(story: Story) -> None:
    test_crashes_restart_so_often(story)
    story.submission.note("submit", 0)
    story.start()
    story.save(9)
    assert story.end(2) == REQUEUE


def test_a_chain_goes_on_or_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(tmp_path, monkeypatch, Profile(requeue=False, chain=3))
    cancelled: list[str] = []
    monkeypatch.setattr(supervisor.slurm, "cancel", cancelled.extend)
    for job in ("6", "7", "8"):
        story.submission.add_job(job)
    story.start()
    story.save(1)
    story.submission.note("stop", 0, signal=signal.SIGUSR2)
    assert story.end(0) == 0
    assert not cancelled
    story.start()
    story.submission.note("finish", 0)
    assert story.end(0) == 0
    assert cancelled == ["8"]


def test_a_sweep_restarts_if_it_has_written_results(tmp_path: Path) -> None:
    results = tmp_path / "eval"
    task = Task(str(tmp_path), ["sweep", str(tmp_path)], str(results))
    submission = Submission(tmp_path / "jobs/a", [task], Profile())
    make_folder(submission.folder)
    environment = {"SLURM_JOB_ID": "", "SLURM_RESTART_COUNT": "0"}
    submission.note("start", 0, mark=task.mark())
    assert not decide(submission, 0, 137, environment).again
    results.mkdir()
    (results / "results.json").write_text("{}")
    assert decide(submission, 0, 137, environment).again


def test_a_submission_is_read_as_it_was_written(story: Story) -> None:
    story.submission.add_job("12")
    read = read_submission(story.submission.folder)
    assert read == story.submission
    assert read.jobs == ["12"]


def test_ranks_find_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poa_plugin.launch.slurm_variables._first_host", lambda nodes: nodes[:2])
    slurm = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n0,n1",
        "SLURM_JOB_ID": "12",
        "SLURM_CPUS_PER_TASK": "8",
    }
    variables = rank_variables(slurm)
    ranks = {name: variables[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")}
    assert ranks == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n0"}
    assert variables["OMP_NUM_THREADS"] == "8"
    again = rank_variables({**slurm, "SLURM_RESTART_COUNT": "1"})
    assert again["MASTER_PORT"] != variables["MASTER_PORT"]
    assert "OMP_NUM_THREADS" not in rank_variables({**slurm, "OMP_NUM_THREADS": "2"})
