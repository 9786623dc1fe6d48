"""`poa config`, and the page that it makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.config.keys import all_keys

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def test_the_page_is_up_to_date() -> None:
    argv = [sys.executable, "-m", "poa_plugin", "config", "--markdown"]
    made = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert made.rstrip() == PAGE.read_text(encoding="utf-8").rstrip()


def test_every_key_of_the_schema_declares_its_meaning() -> None:
    shipped = ("student.vit.", "student.swin.", "student.resnet.")
    for key in all_keys().leaves():
        if key.name.count(".") < 2 or key.name.startswith((*shipped, "loss.")):
            assert key.declared.meaning, key.name
            if key.element_type in (int, float):
                assert key.declared.ranges, key.name


def test_a_key_a_section_and_a_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "optim.base_lr"]) == 0
    assert "a number above 0 and at most 10" in capsys.readouterr().out
    assert main(["config", "optim"]) == 0
    assert "optim.clip_grad = 1.5" in capsys.readouterr().out
    assert main(["config", "lr"]) == 0
    assert capsys.readouterr().out.startswith("  optim.base_lr = 0.004")
    assert main(["config", "base_rl"]) == 2
    assert "did you mean 'optim.base_lr'?" in capsys.readouterr().err
