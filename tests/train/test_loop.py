"""Training on photographs: what a run writes, that it learns, stops, goes on, and says what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint
from poa_plugin.train.loop import train
from poa_plugin.train.parallel import build_model
from poa_plugin.train.stored import open_tensors
from poa_plugin.weights import load_tensors
from tests.conftest import Make


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.latest(run / "ckpt")
    assert folder is not None
    tensors = {}
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        with open_tensors(folder, file) as stored:
            tensors |= {f"{file}/{key}": stored.read(key) for key in stored.shapes}
    return tensors


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(actual: list[dict]) -> list[dict]:
    """Return metrics without what a clock put into them."""
    clocks = ("seconds", "images_per_second", "data_seconds", "step_seconds")
    return [{key: value for key, value in line.items() if key not in clocks} for line in actual]


def test_what_a_run_leaves(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = make("train.shards=2", "train.keep_checkpoints=2"), tmp_path / "run"
    assert train(config).finished
    assert checkpoint.steps(run / "ckpt") == [4, 6]
    assert "step 6/6" in capsys.readouterr().out
    assert (run / "config.yaml").is_file()
    assert list((run / "events").glob("events*"))
    actual = lines(run)
    assert [line["step"] for line in actual] == [1, 3, 5]
    for line in actual:
        assert len(line["subnets"]) == 4
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert line["images_per_second"] > 0
        assert 0 < line["data_seconds"] + line["step_seconds"] <= line["seconds"]
        for name, heads in line["terms_by_head"].items():
            assert len(heads) == len(config.dino.head_n_prototypes)
            assert sum(heads) == pytest.approx(line["terms"][name])
        kinds = {name for name in line["terms"] if not name.startswith("koleo")}
        assert set(line["terms_by_head"]) == kinds
    assert actual[0]["epoch"] == pytest.approx(2 / 3)
    model = build_model(config)
    drawn = []
    for step in range(6):
        model.set_step(step)
        drawn += [subnet.name for subnet in model.sample_subnets(2)]
    assert [name for line in actual for name in line["subnets"]] == drawn
    assert train(config).finished
    assert "already trained to its last step" in capsys.readouterr().out


def test_the_last_layer_is_still_in_the_first_epoch(make: Make, tmp_path: Path) -> None:
    train(make("train.checkpoint_period=1", "train.keep_checkpoints=0"))
    key = "student.dino_head.0.last_layer.weight_v"
    at = [
        load_tensors(tmp_path / f"run/ckpt/{step}/{checkpoint.MODEL}")[key] for step in (1, 3, 4, 5)
    ]
    assert torch.equal(at[0], at[1])
    assert not torch.equal(at[1], at[3])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(make: Make, tmp_path: Path) -> None:
    overrides = ["train.log_period=4"]
    train(make(*overrides, f"output_dir={tmp_path / 'whole'}"))
    for _ in range(8):
        if train(make(*overrides, "train.max_minutes=1e-9")).finished:
            break
    uninterrupted, pieces = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert uninterrupted.keys() == pieces.keys()
    assert all(torch.equal(value, pieces[key]) for key, value in uninterrupted.items())
    actual = [timeless(lines(tmp_path / name)) for name in ("whole", "run")]
    assert actual[0] == actual[1]
    assert [line["step"] for line in actual[0]] == [3, 5]


def test_shards_of_the_batch_are_part_of_the_recipe(make: Make, tmp_path: Path) -> None:
    """One step of two shards differs from one step of one."""
    for shards in (1, 2):
        overrides = (
            f"train.shards={shards}",
            f"output_dir={tmp_path / str(shards)}",
            "optim.epochs=1",
        )
        train(make(*overrides))
    first, second = lines(tmp_path / "1")[0], lines(tmp_path / "2")[0]
    assert first["subnets"][0] == second["subnets"][0]
    assert first["loss"] != second["loss"]


def test_a_checkpoint_of_another_architecture(make: Make) -> None:
    train(make("optim.epochs=1"))
    accept = "train.accept_changes=true"
    with pytest.raises(UserError, match="another architecture"):
        train(make("student.vit.max_depth=5", accept))
    with pytest.raises(UserError, match=r"another architecture.*has shape"):
        train(make("dino.head_n_prototypes=[16,32]", accept))


@pytest.mark.parametrize(
    ("sent", "workers"), [(signal.SIGINT, 1), (signal.SIGUSR2, 1), (signal.SIGTERM, 0)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    tmp_path: Path,
    sent: signal.Signals,
    workers: int,
    demo_overrides: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C and the end of a terminal reach all processes of the group, SIGTERM the training process."""
    run = tmp_path / "run"
    command = ["train", *demo_overrides, f"data.num_workers={workers}", f"output_dir={run}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "poa_plugin", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, sent) if sent != signal.SIGTERM else process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, output + errors
    assert output.count("saving after this step") == 1
    assert "Error" not in errors
    assert "the same command resumes from there" in output
    [step] = checkpoint.steps(run / "ckpt")
    assert 0 < step < 200
    assert main([*command, f"optim.epochs={step // 2 + 1}", "train.accept_changes=true"]) == 0
    assert f"Resuming from '{run / 'ckpt' / str(step)}'" in capsys.readouterr().out
    assert max(checkpoint.steps(run / "ckpt")) > step


def test_a_bar_on_a_terminal(
    demo_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    shown = b""

    def read() -> None:
        nonlocal shown
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while data := os.read(ours, 4096):
                shown += data

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        status = main(
            ["train", *demo_overrides, f"output_dir={tmp_path / 'run'}", "optim.epochs=1"]
        )
    reader.join()
    os.close(ours)
    assert status == 0
    text = shown.decode()
    assert "2/2" in text
    assert "0:00:00" in text
    assert re.search(r"w\d+_d\d  loss \d+\.\d+ \(cross_view", text)
