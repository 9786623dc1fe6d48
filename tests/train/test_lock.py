"""The lock on a run's folder: one holder at a time, and none that has ended keeps others out."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.train import lock, lock_file
from poa_plugin.train.lock import hold
from poa_plugin.train.lock_file import NAME
from poa_plugin.train.lock_holder import Holder
from tests.train.kills import killed_before


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs/one"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "PATIENCE_SECONDS", 0.2)
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
    def refuse(self: Path, *arguments: object, **keywords: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match="the disk is full"), hold(run):
        pass
    assert not run.parent.exists()


def test_a_second_training_is_refused(run: Path, other: int) -> None:
    message = rf"'{run}' is in use by process {other} on host '.+', since \d+-.*kill {other}"
    with pytest.raises(UserError, match=message), hold(run):
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
                lock_file.acquire(run / NAME, Holder.this_process())
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
                lock_file.acquire(run / NAME, Holder.this_process())

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


def test_a_signal_just_after_it_was_taken_leaves_no_lock(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host it would keep others out for ten minutes."""

    def end(path: Path, holder: Holder) -> None:
        assert path.exists()
        raise SystemExit(143)

    monkeypatch.setattr(lock, "Lock", end)
    with pytest.raises(SystemExit), hold(run):
        pass
    assert not run.parent.exists()


def refuse_with(number: int) -> Callable[..., None]:
    def refuse(path: Path, *arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("removed", [False, True])
def test_a_heartbeat_that_fails_says_so_and_ends_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], removed: bool, number: int
) -> None:
    """The lock cannot be touched, or somebody has removed it and it cannot be made anew."""
    with hold(run) as held:
        for attempt in (1, 2):
            with pytest.MonkeyPatch.context() as patch:
                if removed:
                    (run / NAME).unlink()
                    patch.setattr(Path, "write_text", refuse_with(number))
                else:
                    patch.setattr(os, "utime", refuse_with(number))
                for _ in range(3):
                    held.beat()
                    held.check()
            message = capsys.readouterr().err
            assert message.count(f"the lock '{run / NAME}' cannot be touched: ") == 1, attempt
            assert "The training continues" in message
            os.utime(run / NAME, (0, 0)) if not removed else None
            held.beat()
            assert (run / NAME).stat().st_mtime > 1
            assert is_taken(run)
    assert capsys.readouterr().err == ""
    assert not run.exists()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_lock_that_is_written_over_ends_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """It goes on keeping others out."""
    with hold(run) as held:
        (run / NAME).write_text(text)
        os.utime(run / NAME, (0, 0))
        for _ in range(2):
            held.beat()
            held.check()
        assert capsys.readouterr().err.count("was written over or may not be read") == 1
        assert is_taken(run)


@pytest.mark.parametrize("gone", [False, True])
def test_after_a_standstill_the_lock_is_looked_at_before_anything_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """By the clock that goes on in a suspended machine. Another process may have come and gone meanwhile."""
    with hold(run) as held:
        real = lock._clock()
        monkeypatch.setattr(lock, "_clock", lambda: real + 500)
        held.check()
        monkeypatch.setattr(lock, "_clock", lambda: real + 1200)
        (run / NAME).unlink() if gone else leave(run, **ELSEWHERE)
        with pytest.raises(UserError, match=r"was taken over by .* writes nothing more"):
            held.check()
    assert (run / NAME).exists() != gone


def test_a_lock_that_is_removed_soon_is_made_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often; each look counts, not the start."""
    with hold(run) as held:
        real = lock._clock()
        for minutes in range(30):
            now = real + 60.0 * minutes
            monkeypatch.setattr(lock, "_clock", lambda now=now: now)
            (run / NAME).unlink()
            held.beat()
            held.check()
            assert (run / NAME).exists()


def test_leftovers_that_may_not_be_removed_are_in_nobodys_way(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.name == f"{NAME}.abc":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(self))
        honest(self, missing_ok)

    run.mkdir(parents=True)
    (run / f"{NAME}.abc").touch()
    (run / f".{NAME}.def.new").touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    with hold(run):
        assert sorted(file.name for file in run.iterdir()) == [NAME, f"{NAME}.abc"]


def test_a_quota_removes_no_lock_that_another_process_makes_meanwhile(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_no_links(monkeypatch)
    honest = Path.open

    def refuse(self: Path, mode: str = "r", *arguments: object, **keywords: object) -> object:
        if mode != "x":
            return honest(self, mode, *arguments, **keywords)  # type: ignore[call-overload]
        leave(run, **ELSEWHERE)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self))

    run.mkdir(parents=True)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="the quota is used up"), hold(run):
        pass
    assert (run / NAME).exists()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_of_several_that_start_at_the_same_instant_one_wins(
    run: Path, monkeypatch: pytest.MonkeyPatch, hosts: int, links: bool, before: str
) -> None:
    """In each of many tries; the others are refused, with the name of the one that won."""
    if not links:
        has_no_links(monkeypatch)
    processes, tries = 4, 25
    fork = multiprocessing.get_context("fork")
    together, results = fork.Barrier(processes), fork.SimpleQueue()
    for number in range(tries if before == "stale" else 0):
        leave(run / str(number), seconds_ago=660, **ELSEWHERE)

    def start(number: int) -> None:
        socket.gethostname = lambda: f"host{number % hosts}"
        for attempt in range(tries):
            together.wait(30)
            try:
                with hold(run / str(attempt)):
                    results.put((attempt, "won"))
                    together.wait(30)  # until all have tried
            except UserError as error:
                results.put((attempt, str(error)))
                together.wait(30)

    children = [fork.Process(target=start, args=(number,)) for number in range(processes)]
    for child in children:
        child.start()
    actual = [results.get() for _ in range(processes * tries)]
    for child in children:
        child.join()
    message = [text for _, text in actual if text != "won"]
    assert sorted(attempt for attempt, text in actual if text == "won") == list(range(tries))
    assert all("is in use by process" in text and "on host 'host" in text for text in message), (
        message
    )


def test_attempts_that_make_and_remove_the_folder_at_the_same_time(run: Path) -> None:
    """One that finds the folder gone, which another had made and removed, makes it again."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()

    def start() -> None:
        for _ in range(150):
            try:
                with hold(run):
                    results.put("")
            except UserError as error:
                results.put(str(error))

    children = [fork.Process(target=start) for _ in range(4)]
    for child in children:
        child.start()
    message = {results.get() for _ in range(4 * 150)}
    for child in children:
        child.join()
    assert all("is in use by" in text for text in message - {""}), message
    assert not (run / NAME).exists()
