"""Jobs on a real SLURM of two pretended nodes: whatever happens to them, the weights are an unbroken run's.

All scenarios start together, for they mostly wait; each test waits for its own. `POA_LAB_NOTICES` is the
number of notices that are sent at random moments, 3 unless set.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from poa_plugin.runs.results_file import read_results
from tests.launch.lab import RECIPE, STEPS, Job, Lab, is_possible
from tests.train.test_loop import lines, timeless, weights

NOTICES = int(os.environ.get("POA_LAB_NOTICES", "3"))
TOGETHER = 4
"""Scenarios at a time: the nodes have so many CPUs."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not is_possible(), reason="no SLURM can be brought up on this machine"),
]
Scenario = Callable[[Lab], Job]
SLOW = {"POA_TEST_IMAGE_S": "0.4"}
"""A step takes 0.4 s more: there is time to do something to it."""


FOUR_RANKS = ("profile.tasks_per_node=2",)
"""Two on each node; the other jobs have one on each."""


def reference(lab: Lab) -> Job:
    """Two nodes with a rank each, left alone."""
    return left_alone(lab, "reference")


def reference_of_four(lab: Lab) -> Job:
    """Two nodes with two ranks each, left alone."""
    return left_alone(lab, "reference_of_four", *FOUR_RANKS)


def left_alone(lab: Lab, name: str, *profile: str) -> Job:
    job = lab.submit(name, profile=profile)
    job.finish()
    assert job.events() == ["submit", "start", "finish", "end"]
    return job


def time_out(lab: Lab) -> Job:
    """The time limit is over twice."""
    # SLURM looks at limits every 30 seconds, and sends the notice up to so much early.
    limit = ("profile.time=1", "profile.signal_delay_s=1", "profile.max_restarts=20")
    slow = {"POA_TEST_IMAGE_S": "3", "POA_TEST_FAST_FROM": "2"}
    job = lab.submit("time_out", environment=slow, profile=(*FOUR_RANKS, *limit))
    job.finish()
    stopped = {e["restart"] for e in job.submission.events() if e["event"] == "stop"}
    assert job.requeues() == job.events().count("requeue") == len(stopped) >= 2
    return job


def preemption(lab: Lab) -> Job:
    """A job of a better partition takes the nodes for a while."""
    job = lab.submit(
        "preemption",
        environment=SLOW,
        profile=("profile.partition=preempt", "profile.sbatch=[--exclusive]"),
    )
    job.reach(5)
    lab.call("srun", "--partition=gpu", "--nodes=2", "--exclusive", "sleep", "3")
    job.finish()
    assert job.requeues() == job.events().count("requeue") == 1
    return job


def cancelled(lab: Lab) -> Job:
    """`poa jobs cancel`, and `poa jobs resume`."""
    job = lab.submit("cancelled", environment=SLOW)
    job.reach(6)
    assert "Cancelled" in lab.poa("jobs", "cancel", str(job.run)).stdout
    job.wait(lambda: job.state() == "CANCELLED", "cancelled")
    first = job.id
    done = lab.poa("jobs", "resume", job.submission.name, "--in", str(job.submission.folder.parent))
    assert done.returncode == 0, done.stderr
    job.finish()
    assert job.id != first
    assert job.requeues() == 0
    return job


def node_down(lab: Lab) -> Job:
    """A node fails; SLURM requeues the job by itself."""
    job = lab.submit("node_down", environment=SLOW)
    job.reach(6)
    lab.call("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    job.wait(lambda: job.state() != "RUNNING", "requeued")
    lab.bring_back("n1")
    job.finish()
    assert job.events().count("start") == 2
    assert "requeue" not in job.events()
    return job


def killed_rank(lab: Lab) -> Job:
    """A rank is killed with -9: the others end, and the job restarts from its checkpoint."""
    job = lab.submit("killed_rank", environment=SLOW)
    job.reach(6)
    job.kill(rank=1)
    job.finish()
    assert job.requeues() == job.events().count("requeue") == 1
    return job


def requeued_in_checkpoint(lab: Lab) -> Job:
    """An administrator requeues the job while a checkpoint is being written."""
    job = lab.submit("requeued", environment={"POA_TEST_CHECKPOINT_S": "3"})
    writing = job.run / "ckpt/.8.partial"
    job.wait(writing.exists, "writing a checkpoint")
    lab.call("scontrol", "requeue", job.id)
    job.finish()
    assert job.requeues() == 1
    return job


def full_disk(lab: Lab) -> Job:
    """The disk is full at a checkpoint: the job ends with a sentence, and restarts from the one before."""
    full = {"POA_TEST_FULL_DISK": str(lab.runs / "was_full")}
    job = lab.submit("full_disk", environment=full)
    job.finish()
    assert job.requeues() == job.events().count("requeue") == 1
    assert "the disk is full" in job.said()
    return job


def notices(lab: Lab) -> Job:
    """SIGUSR2 at random moments: all ranks leave after the same step, with one requeue each."""
    job, rng = (
        lab.submit("notices", environment=SLOW, profile=(*FOUR_RANKS, "profile.max_restarts=0")),
        random.Random(0),
    )
    for number in range(NOTICES):
        job.wait(lambda n=number: job.events().count("start") == n + 1, "started again")
        before = job.steps_done()
        job.wait(lambda b=before: job.steps_done() > b, "a step further")
        time.sleep(rng.uniform(0, 0.8))
        lab.call("scancel", "--signal=USR2", job.id)
        job.wait(lambda n=number: job.events().count("requeue") == n + 1, "requeued")
    job.finish()
    assert job.requeues() == job.events().count("requeue") == job.events().count("stop") == NOTICES
    return job


def chain(lab: Lab) -> Job:
    """Requeueing is forbidden: the next job of the chain goes on, and the one after it is cancelled."""
    job = lab.submit(
        "chain", environment=SLOW, profile=("profile.requeue=false", "profile.chain=3")
    )
    first, second, third = job.submission.jobs
    job.reach(5)
    lab.call("scancel", "--signal=USR2", first)
    job.wait(lambda: "finish" in job.events(), "finished")
    ended = lambda of: lab.call("squeue", "-h", "-t", "all", "-j", of, "-o", "%T").strip()  # noqa: E731
    job.wait(lambda: ended(third) == "CANCELLED", "cancelled")
    job.wait(lambda: ended(second) == "COMPLETED", "completed")
    assert ended(first) == "COMPLETED"
    return job


BROKEN: list[Scenario] = [
    time_out,
    notices,
    cancelled,
    killed_rank,
    requeued_in_checkpoint,
    full_disk,
    chain,
]
"""Scenarios on the same ranks, whose weights are bit for bit the reference's."""
OF_FOUR = [time_out, notices]
ALONE = [preemption, node_down]
"""The same, which would disturb other jobs, or be disturbed."""


def fewer_nodes(lab: Lab) -> Job:
    """A run goes on with one node in place of two."""
    job = lab.submit("fewer_nodes", environment=SLOW)
    job.reach(6)
    lab.poa("jobs", "cancel", job.id)
    job.wait(lambda: job.state() == "CANCELLED", "cancelled")
    job = lab.submit("fewer_nodes", profile=("profile.nodes=1",))
    job.finish()
    return job


def array_of_seeds(lab: Lab) -> Job:
    """Three seeds, of which one cannot be trained: the others are."""
    blocked = lab.runs / "seeds_seed1"
    blocked.mkdir()
    (blocked / "config.yaml").write_text("student: {arch: swin}\n")
    (blocked / "metrics.jsonl").write_text("")
    job = lab.submit(
        "seeds",
        options=("--seeds", "0", "1", "2"),
        profile=("profile.nodes=1", "profile.tasks_per_node=1"),
    )
    job.wait(lambda: job.events().count("end") == 3, "ended", 400)
    return job


def array_sweep(lab: Lab) -> Job:
    """A job for each width of a sweep, of which one is killed, and one that joins the results."""
    run = lab.runs / "swept"
    short = ("optim.epochs=1", "optim.warmup_epochs=0", "train.OFFICIAL_EPOCH_LENGTH=1")
    for command in (
        ("train", "vit", *RECIPE, *short, f"output_dir={run}"),
        ("sweep", str(run), "--no-latency", "--to", str(run / "alone")),
    ):
        done = lab.poa(*command)
        assert done.returncode == 0, done.stderr
    array, join = lab.submit_sweep(run, "sweep.no_latency=true")
    array.wait(array.ranks, "running")
    array.kill(rank=0)
    join.finish()
    return join


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("slurm")
    lab = Lab(folder / "lab", folder / "runs")
    lab.up()
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def outcomes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[Scenario, Future[Job]]]:
    """Start the scenarios that the chosen tests name, but for those that run alone, the longest first."""
    chosen = " ".join(item.name for item in request.session.items)
    others = [*BROKEN, fewer_nodes, array_of_seeds, array_sweep]
    started = [each for each in others if each.__name__ in chosen]
    with ThreadPoolExecutor(TOGETHER) as pool:
        in_order = [*started[:2], reference_of_four, reference, *started[2:]]
        yield {each: pool.submit(each, lab) for each in in_order}


@pytest.mark.parametrize("scenario", BROKEN, ids=lambda scenario: scenario.__name__)
def test_the_weights_are_those_of_an_unbroken_run(
    scenario: Scenario, outcomes: dict[Scenario, Future[Job]]
) -> None:
    alone = reference_of_four if scenario in OF_FOUR else reference
    check_same_run(outcomes[scenario].result(), outcomes[alone].result())


def test_fewer_nodes_train_on_the_same_samples(outcomes: dict[Scenario, Future[Job]]) -> None:
    job, unbroken = outcomes[fewer_nodes].result(), outcomes[reference].result()
    for mine, theirs in zip(lines(job.run), lines(unbroken.run), strict=True):
        assert mine["subnets"] == theirs["subnets"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_one_of_an_array_of_seeds_fails(lab: Lab, outcomes: dict[Scenario, Future[Job]]) -> None:
    job = outcomes[array_of_seeds].result()
    for task, ends_well in enumerate([True, False, True]):
        assert (("finish" in job.events(task)), "requeue" in job.events(task)) == (ends_well, False)
    shown = lab.poa("jobs", "--in", str(job.submission.folder.parent)).stdout
    rows = [line.split() for line in shown.splitlines() if job.submission.name in line]
    assert [row[2] for row in rows] == ["FINISHED", "FAILED", "FINISHED"]


@pytest.mark.parametrize("scenario", ALONE, ids=lambda scenario: scenario.__name__)
def test_the_same_alone_on_the_cluster(
    scenario: Scenario, lab: Lab, outcomes: dict[Scenario, Future[Job]]
) -> None:
    for other in outcomes.values():
        other.exception()
    lab.clear()  # of what a scenario left that failed
    check_same_run(scenario(lab), outcomes[reference].result())


def test_an_array_sweep_of_which_a_job_is_killed(
    outcomes: dict[Scenario, Future[Job]],
) -> None:
    run = outcomes[array_sweep].result().run
    mine, alone = (read_results(folder).rows for folder in (run / "eval", run / "alone"))
    assert len(mine) == len(alone)
    assert {(row.network, row.metric): row.value for row in mine} == {
        (row.network, row.metric): row.value for row in alone
    }


def test_a_partition_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(AssertionError, match=r"SLURM does not take the job: .*invalid partition"):
        lab.submit("nowhere", profile=("profile.partition=nowhere",))
    assert not list((lab.runs / "jobs").glob("*nowhere"))


def test_a_run_that_is_queued_is_not_queued_again(lab: Lab) -> None:
    job = lab.submit("twice", environment=SLOW)
    with pytest.raises(AssertionError, match=rf"The job {job.id} .* already trains into"):
        lab.submit("twice")
    lab.poa("jobs", "cancel", job.id)


def check_same_run(job: Job, unbroken: Job) -> None:
    """Compare weights and metrics bit for bit."""
    mine, theirs = weights(job.run), weights(unbroken.run)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert timeless(lines(job.run)) == timeless(lines(unbroken.run))
    assert Path(job.run, "ckpt", str(STEPS)).exists()
