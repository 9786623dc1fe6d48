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
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from poa_plugin.config import Config
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS
from poa_plugin.train import checkpoint
from poa_plugin.train.loop import build_model, refuse_non_finite, train
from poa_plugin.train.metrics import _keep_lines_before
from poa_plugin.train.optim import build_optimizer

Make = Callable[..., Config]


class Blobs:
    """Twelve images of coloured noise."""

    classes = ["a", "b"]  # noqa: RUF012

    def __init__(self, path: str | None, split: str, image_size: int | None) -> None:
        self.labels = [i % 2 for i in range(12)]

    def __len__(self) -> int:
        return 12

    def image(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 60, 60), generator=generator, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return str(index)


if "blobs" not in DATASETS:
    DATASETS.register_as("blobs")(Blobs)


@pytest.fixture
def make(small_config: Make, tmp_path: Path) -> Make:
    def config(*words: str) -> Config:
        return small_config(
            "data.dataset=blobs",
            "train.OFFICIAL_EPOCH_LENGTH=3",
            "train.checkpoint_period=2",
            "train.log_period=2",
            "optim.epochs=2",
            "optim.warmup_epochs=1",
            "student.vit.drop_path_rate=0.2",
            f"output_dir={tmp_path / 'run'}",
            *words,
        )

    return config


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.latest(run / "ckpt")
    assert folder is not None
    return {
        f"{file}/{key}": value
        for file in (checkpoint.MODEL, checkpoint.OPTIMIZER)
        for key, value in load_file(folder / file).items()
    }


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = make("train.shards=2", "train.keep_checkpoints=2"), tmp_path / "run"
    assert train(config).finished
    assert checkpoint.steps(run / "ckpt") == [4, 6]
    assert "step 6/6" in capsys.readouterr().out
    assert (run / "config.yaml").is_file()
    assert list((run / "events").glob("events*"))
    found = lines(run)
    assert [line["step"] for line in found] == [1, 3, 5]
    for line in found:
        assert len(line["subnets"]) == 4
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert line["images_per_second"] > 0
    assert found[0]["epoch"] == pytest.approx(2 / 3)
    model = build_model(config)
    drawn = []
    for step in range(6):
        model.step.fill_(step)
        drawn += [subnet.name for subnet in model.sample_subnets(2)]
    assert [name for line in found for name in line["subnets"]] == drawn
    assert train(config).finished
    assert "already trained to its last step" in capsys.readouterr().out


def test_lines_that_will_be_written_again_or_were_cut_off_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "seconds": 2.5}\n{"step": 4, "seconds": 9}\n{"step": 5, "a": {}')
    assert _keep_lines_before(file, 3) == 2.5
    assert file.read_text() == '{"step": 1, "seconds": 2.5}\n'
    assert _keep_lines_before(tmp_path / "none.jsonl", 3) == 0


def test_the_last_layer_is_still_in_the_first_epoch(make: Make, tmp_path: Path) -> None:
    train(make("train.checkpoint_period=1", "train.keep_checkpoints=0"))
    key = "student.dino_head.0.last_layer.weight_v"
    at = [load_file(tmp_path / f"run/ckpt/{step}/{checkpoint.MODEL}")[key] for step in (1, 3, 4, 5)]
    assert torch.equal(at[0], at[1])
    assert not torch.equal(at[1], at[3])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    make: Make, tmp_path: Path, precision: str
) -> None:
    words = [f"train.precision={precision}", "train.checkpoint_period=1"]
    train(make(*words, f"output_dir={tmp_path / 'whole'}"))
    for _ in range(8):
        if train(make(*words, "train.max_minutes=1e-9")).finished:
            break
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(value, pieces[key]) for key, value in whole.items())
    terms = [[line["terms"] for line in lines(tmp_path / name)] for name in ("whole", "run")]
    assert terms[0][-1].keys() == terms[1][-1].keys()
    drawn = [
        [name for line in lines(tmp_path / run) for name in line["subnets"]]
        for run in ("whole", "run")
    ]
    assert drawn[0] == drawn[1]
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(6))


def test_shards_of_the_batch_are_part_of_the_recipe(make: Make, tmp_path: Path) -> None:
    """One step of two shards differs from one step of one."""
    for shards in (1, 2):
        words = (f"train.shards={shards}", f"output_dir={tmp_path / str(shards)}", "optim.epochs=1")
        train(make(*words))
    first, second = lines(tmp_path / "1")[0], lines(tmp_path / "2")[0]
    assert first["subnets"][0] == second["subnets"][0]
    assert first["loss"] != second["loss"]


def test_a_checkpoint_of_another_architecture(make: Make) -> None:
    train(make("optim.epochs=1"))
    with pytest.raises(UserError, match="another architecture"):
        train(make("student.vit.max_depth=5"))
    with pytest.raises(UserError, match=r"another architecture.*has shape"):
        train(make("dino.head_n_prototypes=[16,32]"))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_harms() -> None:
    terms = {"same_view": torch.tensor(1.0), "koleo": torch.tensor(float("nan"))}
    with pytest.raises(UserError, match=r"not finite at step 7 \(koleo\)"):
        refuse_non_finite(terms, 7)
    refuse_non_finite({"same_view": torch.tensor(1.0)}, 7)


def test_a_partial_checkpoint_is_not_taken_for_one(make: Make, tmp_path: Path) -> None:
    train(make("optim.epochs=1"))
    root = tmp_path / "run/ckpt"
    (root / ".99.partial").mkdir()
    assert checkpoint.steps(root) == [2, 3]
    model = build_model(make())
    optimizer = build_optimizer(model.get_params_groups(), make())
    assert checkpoint.load(root / "3", model, optimizer)["step"] == 3
    (root / "3" / checkpoint.MODEL).write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(root / "3", model, optimizer)


@pytest.mark.parametrize(
    ("sent", "workers"), [(signal.SIGINT, 0), (signal.SIGINT, 1), (signal.SIGTERM, 1)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    tmp_path: Path, sent: signal.Signals, workers: int, demo_words: list[str]
) -> None:
    """Ctrl-C on a terminal reaches all processes of the group, SIGTERM the training process."""
    run = tmp_path / "run"
    demo_words = [*demo_words, f"data.num_workers={workers}"]
    command = [sys.executable, "-m", "poa_plugin", "train", *demo_words, f"output_dir={run}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, output + errors
    assert output.count("saving after this step") == 1
    assert "Error" not in errors
    assert "the same command goes on from there" in output
    [step] = checkpoint.steps(run / "ckpt")
    assert 0 < step < 200
    again = subprocess.run(
        [*command, f"optim.epochs={step // 2 + 1}"], capture_output=True, text=True, check=True
    )
    assert f"Resuming from '{run / 'ckpt' / str(step)}'" in again.stdout
    assert max(checkpoint.steps(run / "ckpt")) > step


@pytest.fixture
def demo_words(tmp_path: Path) -> list[str]:
    """Words for a quick training on a few images written here."""
    from PIL import Image

    folder = tmp_path / "images/x"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.effect_noise((40, 40), 10 + i).save(folder / f"{i}.png")
    config = Path(__file__).resolve().parents[2] / "configs/ssl/demo_vit.yaml"
    return [
        str(config),
        "data.dataset=image_folder",
        f"data.path={tmp_path / 'images'}",
        "train.batch_size_per_shard=4",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "train.log_period=1",
        "train.threads=1",
        "optim.epochs=100",
        "optim.warmup_epochs=1",
    ]


def test_a_bar_on_a_terminal(demo_words: list[str], tmp_path: Path) -> None:
    words = [*demo_words, f"output_dir={tmp_path / 'run'}", "optim.epochs=1"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "poa_plugin", "train", *words],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "70"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "2/2" in text
    assert "0:00:00" in text
    assert re.search(r"w\d+_d\d  loss \d+\.\d+ \(cross_view", text)
