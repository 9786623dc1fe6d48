"""What `poa train` says at its start, and what to do next at its end."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from poa_plugin import device
from poa_plugin.cli import build_parser
from poa_plugin.train import header
from poa_plugin.train.loop import train
from tests.conftest import Make

ROOT = Path(__file__).resolve().parents[2]


def commands(printed: str) -> list[list[str]]:
    return [
        shlex.split(line)[1:] for line in re.findall(r"^  (poa .*?)(?:    .*)?$", printed, re.M)
    ]


@pytest.fixture(autouse=True)
def _slow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "has_fast_bf16", lambda device: False)


def test_fast_bf16_is_pointed_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "faster" not in header.header(make())
    monkeypatch.setattr(header, "has_fast_bf16", lambda device: device.type == "cpu")
    assert "faster      this device has fast bf16: train.precision=bf16" in header.header(make())
    assert "faster" not in header.header(make("train.precision=bf16"))


@pytest.mark.parametrize(
    ("flags", "fast"), [("fpu sse amx_bf16 amx_tile", True), ("fpu sse avx512f", False)]
)
def test_a_cpu_says_whether_it_has_bf16(
    monkeypatch: pytest.MonkeyPatch, flags: str, fast: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : {flags}")
    assert device.has_fast_bf16(torch.device("cpu")) == fast


def test_the_header_and_the_end(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["train.shards=2", f"output_dir={tmp_path / 'a run'}"]
    assert not train(make(*overrides, "train.max_minutes=1e-9")).finished
    printed = capsys.readouterr().out
    rows = [line.split(maxsplit=1) for line in printed.splitlines()[:5]]
    assert rows == [
        ["device", "cpu, 1 thread, fp32"],
        ["parameters", "125k in the intact vit, 20.1k in the smallest of 12 networks"],
        ["folder", str(tmp_path / "a run")],
        ["steps", "6 (2 epochs of 3), 6 images each"],
        ["images", "12 (blobs)"],
    ]
    assert "Resuming" not in printed
    assert "Stopped after step 1 of 6; the same command resumes from there" in printed
    assert commands(printed) == [["train", str(tmp_path / "a run")]]

    for message in ("Resuming from '.*/ckpt/1'", "Resuming from '.*/ckpt/6'"):
        assert train(make(*overrides)).finished
        printed = capsys.readouterr().out
        assert re.search(message, printed)
        assert [command[0] for command in commands(printed)] == ["sweep", "extract"]
        for command in commands(printed):
            assert build_parser().parse_args(command).run_folder == tmp_path / "a run"


COUNT = """
import re, sys, time
import torch
began = time.process_time()
from poa_plugin.config.load import load_config
from poa_plugin.train import loop
for recipe in ("vit", "swin", "resnet"):
    said = loop.header(load_config(f"configs/ssl/{recipe}.yaml"))
    assert re.search(r"parameters  [\\d.]+M in the intact \\w+, [\\d.]+M in the smallest of \\d+", said), said
assert time.process_time() - began < 3, time.process_time() - began
slow = {"torchvision", "torch._dynamo", "tensorboard", "sympy"} & set(sys.modules)
assert not slow, slow
"""


def test_it_takes_no_time() -> None:
    """Parameters are counted, not made, and what takes seconds to import comes later."""
    subprocess.run([sys.executable, "-c", COUNT], check=True, cwd=ROOT)
