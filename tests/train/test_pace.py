"""How long steps and checkpoints take, and whether a job's notice covers them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poa_plugin.train.loop import train
from poa_plugin.train.pace import NOTICE, Longest, Pace, longest_of
from tests.conftest import Make


def test_a_run_keeps_the_longest_of_all_its_attempts(tmp_path: Path) -> None:
    first = Pace(tmp_path, {})
    for seconds in (1.0, 3.0, 2.0):
        first.add_step(seconds)
    first.add_checkpoint(0.5)
    second = Pace(tmp_path, {})
    second.add_step(1.5)
    second.add_checkpoint(4.0)
    assert longest_of(tmp_path) == Longest(step=3.0, checkpoint=4.0)
    assert Longest(step=3.0, checkpoint=4.0).notice == 67.0


@pytest.mark.parametrize(("notice", "warnings"), [("63", 1), ("64", 0), ("", 0)])
def test_a_notice_that_is_too_short_is_said_once(
    notice: str, warnings: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = Pace(tmp_path, {NOTICE: notice})
    pace.add_step(3.0)
    for _ in range(2):
        pace.add_checkpoint(1.0)
    said = capsys.readouterr().err
    assert (
        said.count("The job is told to save 63 s before it is ended, and may need 64 s") == warnings
    )


def test_a_damaged_note_ends_nothing(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"other": 1}'):
        (tmp_path / "longest.json").write_text(text)
        assert longest_of(tmp_path) is None


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_training_measures(asynchronous: str, make: Make, tmp_path: Path) -> None:
    assert train(make(f"train.async_checkpoints={asynchronous}")).finished
    noted = json.loads((tmp_path / "run/longest.json").read_text())
    assert noted["step"] > 0
    assert noted["checkpoint"] > 0
