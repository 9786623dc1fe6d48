"""Files that are written whole, and read though a kill or a disk has damaged a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.files import drop_records_from, read_records, write_records

DAMAGED = {
    "binary": b"\xff\xfe\x00\x01",
    "zeros": bytes(10),
    "empty": b"",
    "list": b"[1, 2]",
    "no step": b"{}",
    "no number": b'{"step": "one"}',
    "half": b'{"step": ',
    "nested": b"[" * 100_000,
}
"""Lines that are no record of ours."""


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_lines_are_left_out(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a warning, but for the last one, which a kill may have cut off."""
    path, line = tmp_path / "metrics.jsonl", DAMAGED[damage]
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert read_records(path, "step", int) == [{"step": 1}, {"step": 2}]
    warning = f"WARNING: Line 2 of '{path}' is damaged and left out.\n"
    assert capsys.readouterr().err == warning
    drop_records_from(path, 2)
    assert path.read_text() == '{"step": 1}\n'
    capsys.readouterr()
    path.write_bytes(b'{"step": 1}\n' + line)
    assert read_records(path, "step", int) == [{"step": 1}]
    assert capsys.readouterr().err == ""


def test_lines(tmp_path: Path) -> None:
    path, records = tmp_path / "lines", [{"image": "a\u2028\n\udcff"}, {"image": "b"}]
    assert read_records(path, "image", str) == []
    drop_records_from(path, 3)
    assert not path.exists()
    for written in ([], records):
        write_records(path, written)
        assert read_records(path, "image", str) == written


@pytest.mark.parametrize("name", ["metrics.jsonl", "skipped_steps.jsonl", "bad_images.jsonl"])
def test_a_run_goes_on_over_damaged_lines(
    name: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / name).write_bytes(b"\n".join(DAMAGED.values()) + b"\n{}")
    overrides = ["optim.epochs=3", "train.accept_changes=true"]
    assert main(["train", str(run), *overrides]) == 0
    assert f"Line 1 of '{run / name}' is damaged" in capsys.readouterr().err
    for line in (run / name).read_text().splitlines():
        assert isinstance(json.loads(line), dict)
