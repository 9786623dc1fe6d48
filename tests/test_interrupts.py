"""Ctrl-C: a sentence and exit status 130, in the first seconds too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = str(ROOT / "configs/ssl/demo_vit.yaml")
START = "from poa_plugin.__main__ import run; import sys; print('up', flush=True); sys.exit(run())"


def interrupted(seconds: float, *argv: str) -> tuple[int, str]:
    """Start a command, press Ctrl-C after some seconds, and return its exit status and stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", START, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        message = process.stderr.read()
        return process.wait(), message


@pytest.mark.parametrize("seconds", [0.1, 0.6, 1.2])
def test_in_the_first_seconds(seconds: float, tmp_path: Path) -> None:
    argv = ("train", DEMO, f"output_dir={tmp_path / 'run'}", "optim.epochs=100000")
    assert interrupted(seconds, *argv) == (130, "poa: interrupted\n")


def test_anywhere_else(tmp_path: Path) -> None:
    """An interrupt raises, so that what is being written is removed; the sentence is the same."""
    script = (
        "import sys, time\nfrom poa_plugin import __main__, cli\nfrom poa_plugin.commands import training\n"
        "def work(arguments):\n"
        "    try:\n        print('up', flush=True); time.sleep(60)\n"
        "    finally:\n        open(sys.argv[-1], 'w').close()\n"
        "training.run_train = work\n"
        "sys.exit(__main__.run())\n"
    )
    left = tmp_path / "cleared"
    with subprocess.Popen(
        [sys.executable, "-c", script, "train", str(left)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "poa: interrupted\n"
        assert process.wait() == 130
    assert left.exists()


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    """As for a command that a shell runs in the background."""
    script = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from poa_plugin.__main__ import run\nimport sys\nsys.argv = ['poa', '--version']\n"
        "try:\n    run()\n"
        "finally:\n    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("poa ")


def test_worker_processes_end_in_silence() -> None:
    """A terminal sends Ctrl-C to all processes of a command."""
    script = (
        "import os, signal, sys, time\nfrom poa_plugin import __main__\n"
        "signal.signal(signal.SIGINT, __main__._interrupt)\n"
        "child = os.fork()\n"
        "if child == 0:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ
    )
    assert (ended.returncode, ended.stderr) == (130, "")
