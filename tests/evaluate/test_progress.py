"""A bar at a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from poa_plugin.evaluate import progress
from poa_plugin.evaluate.progress import ProgressBar


def test_plain_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressBar(200) as bar:
        bar.say("width 8: features")
        for _ in range(4):
            now[0] += 20
            bar.advance(20)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["20%: width 8: features", "40%: width 8: features"]
    assert captured.out == ""


def test_a_bar_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar(10) as bar:
        bar.say("width 8")
        bar.advance(5)
    assert "50%" in terminal.getvalue()
    assert "width 8" in terminal.getvalue()
