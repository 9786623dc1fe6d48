"""Commands side by side: they end together, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poa_plugin.children import run_side_by_side
from poa_plugin.errors import UserError

SLEEP = "import time; time.sleep(60)"


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_their_output_is_printed_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_side_by_side({"one": python("print(1)"), "two": python("print(2); print('ü')")})
    assert lines == {"one": ["1"], "two": ["2", "ü"]}
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "    one | 1",
        "    two | 2",
        "    two | ü",
    ]


def test_when_one_fails_all_end() -> None:
    began = time.monotonic()
    fail = python("import sys; print('poa: No such luck.', file=sys.stderr); sys.exit(2)")
    with pytest.raises(UserError, match=r"'two' ended with exit status 2: No such luck\."):
        run_side_by_side({"one": python(SLEEP), "two": fail})
    assert time.monotonic() - began < 30


def test_one_that_is_killed_is_said_to_be() -> None:
    kill = python("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match="signal SIGKILL, which is often due to a lack of memory"):
        run_side_by_side({"one": kill})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_they_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); "
    child += "print('up', flush=True); time.sleep(60)"
    script = (
        "import sys\nfrom poa_plugin.children import run_side_by_side\n"
        f"run_side_by_side({{'one': [sys.executable, '-c', {child!r}]}})\n"
    )
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert b"up" in parent.stdout.readline()
        parent.send_signal(number)
        status = parent.wait()
    if number in (signal.SIGTERM, signal.SIGHUP):
        assert status == 128 + number
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _runs(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"the child outlived {number.name}")


def _runs(pid: int) -> bool:
    """Tell whether a process is there, and not only an entry that nobody has waited for."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
