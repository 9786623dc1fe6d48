"""The lock on a run's folder: one holder at a time, and none that has ended keeps others out."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.train import lock
from poa_plugin.train.lock import NAME, hold
from poa_plugin.train.lock_holder import Holder
from tests.train.kills import killed_before


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs/one"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    for variable in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(variable, raising=False)


def forked(act: Callable[[], object]) -> int:
    """Start a process that ends without cleaning up, with status 0 if `act` returns; return its number."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return pid


@pytest.fixture
def other(run: Path) -> Iterator[int]:
    """Another process that holds the lock."""

    def act() -> None:
        with hold(run):
            signal.pause()

    pid = forked(act)
    deadline = time.monotonic() + 20
    while not (run / NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def leave(run: Path, seconds_ago: float = 0.0, **changes: object) -> None:
    """Leave a lock behind whose holder is this process, but for some changes."""
    run.mkdir(parents=True, exist_ok=True)
    (run / NAME).write_text(json.dumps(asdict(replace(Holder.this_process(), **changes))))
    now = time.time()
    os.utime(run / NAME, (now - seconds_ago, now - seconds_ago))


def is_taken(run: Path) -> bool:
    """Take the lock if that can be; return whether it could not."""
    try:
        with hold(run):
            assert [file.name for file in run.iterdir()] == [NAME]
    except UserError:
        return True
    assert not (run / NAME).exists()
    return False


def test_it_is_released_and_a_folder_made_for_it_goes(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(run):
        assert (run / NAME).is_file()
        raise ZeroDivisionError
    assert not run.parent.exists()
    with hold(run):
        (run / "file").touch()
    assert [file.name for file in run.iterdir()] == ["file"]


def test_a_disk_that_is_full(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **words: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match="the disk is full"), hold(run):
        pass
    assert not run.parent.exists()


def test_a_second_training_is_refused(run: Path, other: int) -> None:
    said = rf"'{run}' is in use by process {other} on host '.+', since \d+-.*kill {other}"
    with pytest.raises(UserError, match=said), hold(run):
        pass
    assert (run / NAME).exists()


def test_one_that_was_killed_keeps_nobody_out(run: Path, other: int) -> None:
    """Not even before its parent has asked how it ended."""
    assert is_taken(run)
    os.kill(other, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_taken(run) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not is_taken(run)


ELSEWHERE = {"host": "elsewhere", "machine": "another"}
LEFT: dict[str, tuple[dict[str, object], bool]] = {
    "this process": ({}, True),
    "another process with its number": ({"started": 1}, False),
    "no such process": ({"pid": 2**22 - 1, "started": 1}, False),
    "before a reboot": ({"machine": "m", "boot": "another"}, False),
    "perhaps another machine of this name": ({"machine": "", "boot": "another"}, True),
    "another container": ({"pid_namespace": "another", "started": 1}, True),
    "a while ago, in another container": ({"pid_namespace": "b", "seconds_ago": 650.0}, False),
    "another host": (ELSEWHERE, True),
    "another host, nine minutes ago": ({**ELSEWHERE, "seconds_ago": 540.0}, True),
    "another host, eleven minutes ago": ({**ELSEWHERE, "seconds_ago": 660.0}, False),
    "another host, in the future": ({**ELSEWHERE, "seconds_ago": -3600.0}, True),
    "a while ago, but alive": ({"seconds_ago": 6000.0}, True),
    "the job before it was requeued": ({**ELSEWHERE, "slurm_job": "c/7"}, False),
    "the job, no restart since": ({**ELSEWHERE, "slurm_job": "c/7", "slurm_restarts": 1}, True),
    "another job": ({**ELSEWHERE, "slurm_job": "c/8"}, True),
    "another cluster's job": ({**ELSEWHERE, "slurm_job": "d/7"}, True),
}


@pytest.mark.parametrize("name", LEFT)
def test_when_a_lock_is_stale(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, taken = LEFT[name]
    if "machine" in changes and "host" not in changes:
        real = Holder.this_process
        here = {"machine": changes["machine"]}
        monkeypatch.setattr(Holder, "this_process", lambda: replace(real(), **here))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    leave(run, **{"slurm_job": "", "slurm_restarts": 0, **changes})
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a local clock says nothing
    assert is_taken(run) == taken


def test_a_lock_of_which_nothing_is_understood(run: Path) -> None:
    for text in ("", "[]", "{}", '{"token": "x", "host": "y", "pid": "z"}'):
        leave(run)
        (run / NAME).write_text(text)
        assert is_taken(run)
        os.utime(run / NAME, (time.time() - 660,) * 2)
        assert not is_taken(run)


def test_of_several_that_see_a_stale_lock_one_replaces_it(run: Path) -> None:
    """Each that gets it ends without a word, so that the next finds a stale one again."""
    leave(run, pid=2**22 - 1, started=1)
    report = run.parent / "report"

    def act() -> None:
        for _ in range(10_000):
            try:
                lock._take(run / NAME, Holder.this_process())
            except UserError:
                time.sleep(0.002)
                continue
            marker = os.open(run.parent / "marker", os.O_CREAT | os.O_EXCL)  # fails beside another
            os.close(marker)
            time.sleep(0.005)
            (run.parent / "marker").unlink()
            with report.open("a") as file:
                file.write("held\n")
            return

    children = [forked(act) for _ in range(6)]
    for child in children:
        os.waitpid(child, 0)
    assert report.read_text().splitlines() == ["held"] * len(children)
    assert not (run.parent / "marker").exists()


def has_no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_system_with_and_without_links(
    links: bool, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        has_no_links(monkeypatch)
    with hold(run):
        assert is_taken(run)
    leave(run, started=1)
    assert not is_taken(run)


@pytest.mark.parametrize("stale", [False, True])
def test_a_kill_at_any_moment_of_taking_it(stale: bool, run: Path) -> None:
    """The next one takes it at once, and clears up what was left."""
    completed, kills = False, 0
    while not completed:
        if stale:
            leave(run, pid=2**22 - 1, started=1)
        run.mkdir(parents=True, exist_ok=True)

        def act(before: int = kills) -> None:
            with killed_before(before):
                lock._take(run / NAME, Holder.this_process())

        completed = os.waitpid(forked(act), 0)[1] == 0
        assert not is_taken(run)
        kills += 1
    assert kills > (8 if stale else 2)


def test_the_heartbeat(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with hold(run) as held:
        os.utime(run / NAME, (0, 0))
        deadline = time.monotonic() + 20
        while (run / NAME).stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (run / NAME).stat().st_mtime > 1
        held.check()


def test_one_that_lost_its_lock_says_so(run: Path) -> None:
    with hold(run) as held:
        (run / NAME).unlink()
        held.touch()
        held.check()
        assert (run / NAME).exists()
        leave(run, **ELSEWHERE)
        held.touch()
        with pytest.raises(UserError, match=r"was taken over by process .* on host 'elsewhere'"):
            held.check()
    assert (run / NAME).exists()
