"""Standard output and error that fail: no work ends by it, and nothing ends in a traceback."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from poa_plugin.console import GuardedText, guarded_console

ROOT = Path(__file__).resolve().parents[1]
PRINT = """
import sys
from poa_plugin import cli
from poa_plugin.commands import information, training

def work(arguments):
    for i in range(int(arguments.config)):
        print(i, "\\N{LATIN SMALL LETTER U WITH DIAERESIS}\\udcff" * 20, flush=i % 2 == 0)
    open(1000 * "n", "a") if arguments.config == "0" else None

training.run_train = information.run_networks = work
sys.exit(cli.main(["COMMAND", *sys.argv[1:]]))
"""
"""A command that prints so many lines, in the place of one that works on (train) or prints (networks)."""


def run(command: str, redirect: str, lines: int = 4000, **environment: str) -> tuple[str, str]:
    """Run a command under bash with a redirection; return the pipe's statuses and what is on stderr."""
    script = PRINT.replace("COMMAND", command)
    line = f'"$0" -c "$1" {lines} {redirect}; echo "status ${{PIPESTATUS[0]}}" >&2'
    ended = subprocess.run(
        ["bash", "-c", line, sys.executable, script],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    message, _, status = ended.stderr.rpartition("status ")
    return status.strip(), message


@pytest.mark.parametrize("command", ["train", "networks"])
def test_a_reader_that_has_gone(command: str) -> None:
    """It has seen what it wanted: no failure, and nothing to say."""
    assert run(command, "| head -1") == ("0", "")


@pytest.mark.parametrize(
    ("redirect", "reason"),
    [("> /dev/full", "there is no space left where it goes"), (">&-", "it is closed")],
)
def test_an_output_that_fails(redirect: str, reason: str) -> None:
    """A command whose result is what it prints has failed; another one has not."""
    message = f"poa: Standard output could not be written: {reason}"
    assert run("networks", redirect) == ("2", f"{message}.\n")
    assert run("train", redirect) == ("0", f"{message}; the command itself continued.\n")


def test_an_error_output_that_fails() -> None:
    assert run("train", "2>&-")[0] == "0"
    assert run("train", "2>/dev/full >/dev/full")[0] == "0"
    assert run("train", ">&- 2>&-")[0] == "0"
    assert run("train", "2>/dev/full", lines=0)[0] == "2"


def test_characters_that_the_terminal_does_not_have() -> None:
    assert run("networks", ">/dev/null", PYTHONIOENCODING="ascii") == ("0", "")
    status, message = run("train", ">/dev/null", lines=0, PYTHONIOENCODING="ascii")
    assert status == "2"
    assert message.startswith("poa: 'nnn")


def test_a_training_whose_output_is_full(demo_overrides: list[str], tmp_path: Path) -> None:
    """It ends as it would have; the run's own disk is not said to be full."""
    overrides = [*demo_overrides, f"output_dir={tmp_path / 'run'}", "optim.epochs=1"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "poa_plugin", "train", *overrides],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 0
    assert "the disk is full" not in ended.stderr
    assert ended.stderr.endswith("; the command itself continued.\n")
    assert (tmp_path / "run/ckpt/2").is_dir()


class Broken(io.StringIO):
    """A file whose writes fail from some call on."""

    def __init__(self, calls: int, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.calls, self.number = calls, number

    def write(self, text: str) -> int:
        self.calls -= 1
        if self.calls < 0:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def test_what_follows_a_failure_is_dropped() -> None:
    file = Broken(2)
    guarded = GuardedText(file)
    for text in ("a", "b", "c", "d"):
        assert guarded.write(text) == 1
    guarded.writelines(["e", "f"])
    guarded.flush()
    assert file.getvalue() == "ab"
    assert guarded.failure is not None
    assert guarded.failure.errno == errno.ENOSPC
    assert guarded.restored() is file


def test_what_is_asked_of_a_file_is_passed_on() -> None:
    with Path(os.devnull).open("w", encoding="latin-1") as file:
        guarded = GuardedText(file)
        assert guarded.encoding == "latin-1"
        assert guarded.errors == "backslashreplace"
        assert guarded.fileno() == file.fileno()
        assert not guarded.isatty()
        guarded.restored()
        assert file.errors == "strict"


def test_a_file_that_was_closed() -> None:
    file = io.StringIO()
    guarded = GuardedText(file)
    file.close()
    guarded.write("a")
    assert guarded.failure is not None
    assert guarded.failure.errno == errno.EBADF


@pytest.mark.parametrize(
    ("number", "is_result", "status", "ends"),
    [
        (errno.EPIPE, True, 0, 0),
        (errno.ENOSPC, True, 0, 2),
        (errno.ENOSPC, True, 1, 1),
        (errno.ENOSPC, False, 0, 0),
        (errno.ENOSPC, False, 130, 130),
    ],
)
def test_exit_statuses(
    monkeypatch: pytest.MonkeyPatch, number: int, is_result: bool, status: int, ends: int
) -> None:
    out, err = Broken(0, number), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded_console() as console:
        print("lost")
        assert console.exit_status(status, is_result) == ends
    assert sys.stdout is out
    assert sys.stderr is err
    assert bool(err.getvalue()) == (number != errno.EPIPE)
