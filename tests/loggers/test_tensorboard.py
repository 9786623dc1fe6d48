"""TensorBoard's files, as TensorBoard reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from poa_plugin.errors import UserError
from poa_plugin.train.loop import train
from poa_plugin.train.metrics import scalars
from tests.conftest import Make
from tests.train.test_faults import fill
from tests.train.test_loop import lines


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_what_tensorboard_shows_is_what_the_metrics_say(make: Make, tmp_path: Path) -> None:
    train(make())
    shown, actual = read(tmp_path / "run/events"), lines(tmp_path / "run")
    assert shown.keys() == {tag for line in actual for tag in scalars(line)}
    for tag, values in shown.items():
        expected = [(line["step"], scalars(line)[tag]) for line in actual]
        assert values == [(step, pytest.approx(value)) for step, value in expected]


def test_steps_that_come_again_replace_the_former_ones(make: Make, tmp_path: Path) -> None:
    overrides = ["train.checkpoint_period=2", "train.keep_checkpoints=0", "train.log_period=1"]
    train(make(*overrides))
    shutil.rmtree(tmp_path / "run/ckpt/6")
    shutil.rmtree(tmp_path / "run/ckpt/4")
    train(make(*overrides))
    assert len(list((tmp_path / "run/events").iterdir())) == 2
    shown = read(tmp_path / "run/events")["images_per_second"]
    speeds = [line["images_per_second"] for line in lines(tmp_path / "run")]
    assert shown == [(step, pytest.approx(speed)) for step, speed in enumerate(speeds)]


def test_a_full_disk_under_the_events_alone(
    make: Make,
    disk: Callable[[int], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = disk(1 << 20)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/events").symlink_to(folder)
    fill(folder, 4096)
    overrides = ["train.log_period=1", "optim.epochs=10"]
    assert train(make(*overrides)).finished
    warnings = capfd.readouterr().err
    assert warnings.count("poa: warning: The logger 'tensorboard' failed") == 1
    assert "No space left on device" in warnings
    assert "Traceback" not in warnings
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(30))
    with pytest.raises(UserError, match="cannot be written: the disk is full"):
        train(make(*overrides, "optim.epochs=11", "train.accept_changes=true"))
