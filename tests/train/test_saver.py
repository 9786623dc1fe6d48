"""Asynchronous checkpoints: the same files, whole or absent, and errors that are raised by the training."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint, loop, saver
from poa_plugin.train.integrity import read_state
from poa_plugin.train.loop import train
from poa_plugin.train.saver import Saver
from poa_plugin.train.snapshot import Snapshot
from tests.conftest import Make
from tests.train.kills import at_every_point
from tests.train.test_checkpoint import of_seed, trained, write
from tests.train.test_loop import lines, timeless, weights


def test_a_run_is_the_same_bit_for_bit(make: Make, tmp_path: Path) -> None:
    """And between two starts of a run the choice may change."""
    runs = [tmp_path / name for name in ("at_once", "asynchronous", "mixed")]
    train(make(f"output_dir={runs[0]}"))
    train(make(f"output_dir={runs[1]}", "train.async_checkpoints=true"))
    first = make(f"output_dir={runs[2]}", "train.max_minutes=1e-9")
    assert not train(first).finished
    assert train(make(f"output_dir={runs[2]}", "train.async_checkpoints=true")).finished
    expected = weights(runs[0])
    for run in runs[1:]:
        actual = weights(run)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in actual.items())
        assert timeless(lines(run)) == timeless(lines(runs[0]))
    assert checkpoint.steps(runs[1] / "ckpt") == checkpoint.steps(runs[0] / "ckpt")


def test_a_step_is_copied_before_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread writes nothing before the values, the state among them, have changed."""
    changed = threading.Event()

    def delayed(snapshot: Snapshot) -> None:
        assert changed.wait(60)
        honest(snapshot)

    honest = saver.write
    monkeypatch.setattr(saver, "write", delayed)
    model, optimizer = trained(1)
    state = {"step": 1, "metrics": {"sums": [1]}}
    with Saver(tmp_path, 0, asynchronous=True) as saving:
        saving.save(model, optimizer, state)
        with torch.no_grad():
            model.linear.weight.zero_()
            optimizer.state[model.linear.weight]["exp_avg"].zero_()
        state["metrics"]["sums"].append(2)  # type: ignore[index]
        assert not checkpoint.steps(tmp_path)
        changed.set()
    assert of_seed(tmp_path / "1", 1)
    other, moments = trained(2)
    loaded = checkpoint.load(tmp_path / "1", other, moments)
    assert loaded["metrics"] == {"sums": [1]}
    assert moments.state[other.linear.weight]["exp_avg"].any()


def test_at_most_one_is_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, most = [], []

    def counted(snapshot: Snapshot) -> None:
        writing.append(snapshot.step)
        most.append(len(writing))
        honest(snapshot)
        writing.remove(snapshot.step)

    honest = saver.write
    monkeypatch.setattr(saver, "write", counted)
    model, optimizer = trained(1)
    with Saver(tmp_path, 2, asynchronous=True) as saving:
        for step in range(1, 6):
            saving.save(model, optimizer, {"step": step})
    assert most == [1] * 5
    assert checkpoint.steps(tmp_path) == [4, 5]


def test_a_kill_while_a_step_is_written_again_leaves_one_of_both(tmp_path: Path) -> None:
    root, written = tmp_path / "ckpt", tmp_path / "written"
    write(written, 3, seed=1)

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(written, root)

    def save() -> None:
        with Saver(root, 0, asynchronous=True) as saving:
            saving.save(*trained(2), {"step": 3})

    kills = 0
    for _ in at_every_point(prepare, save):
        kills += 1
        seen = checkpoint.latest(root)
        assert seen is not None
        assert of_seed(seen, 1) or of_seed(seen, 2)
        checkpoint.clear_unfinished(root)
        assert [entry.name for entry in root.iterdir()] == ["3"]
    assert kills > 12
    assert of_seed(root / "3", 2)


def full(snapshot: Snapshot) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(snapshot.folder))


def test_an_error_is_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(saver, "write", full)
    model, optimizer = trained(1)
    message = r"'2' cannot be written under .*: the disk is full; the one of step 1 is intact"
    with Saver(tmp_path, 0, asynchronous=True) as saving:
        saving.save(model, optimizer, {"step": 2})
        with pytest.raises(UserError, match=message):
            saving.save(model, optimizer, {"step": 3})
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


def test_an_error_of_the_last_one_is_raised_at_the_end(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_at_the_end(snapshot: Snapshot) -> None:
        (full if snapshot.step == 6 else honest)(snapshot)

    honest = saver.write
    monkeypatch.setattr(saver, "write", full_at_the_end)
    with pytest.raises(UserError, match=r"'6' cannot be written .*the one of step 4 is intact"):
        train(make("train.async_checkpoints=true"))
    assert checkpoint.steps(tmp_path / "run/ckpt") == [2, 4]
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 3, 5]
    monkeypatch.undo()
    assert train(make()).finished


@pytest.mark.parametrize("fails", [False, True])
def test_another_error_waits_for_the_thread_and_is_not_hidden(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    raised = threading.Event()

    def delayed(snapshot: Snapshot) -> None:
        assert raised.wait(60)
        (full if fails else honest)(snapshot)

    honest = saver.write
    monkeypatch.setattr(saver, "write", delayed)
    with (
        pytest.raises(ZeroDivisionError),
        Saver(tmp_path, 0, asynchronous=True) as saving,
    ):
        saving.save(*trained(1), {"step": 1})
        raised.set()
        raise ZeroDivisionError
    assert checkpoint.steps(tmp_path) == ([] if fails else [1])
    assert not list(tmp_path.glob(".*"))
    said = capsys.readouterr().err
    assert ("'1' cannot be written" in said and "disk is full" in said) is fails


def test_metrics_are_on_the_disk_before_a_checkpoint_is_there(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill after it would leave a hole: lines before the checkpoint's step are not written again."""
    order: list[str] = []

    def noted(name: str, honest: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: object) -> None:
            order.append(name)
            honest(*arguments)

        return run

    monkeypatch.setattr(loop.Metrics, "flush", noted("flush", loop.Metrics.flush))
    monkeypatch.setattr(saver, "write", noted("write", saver.write))
    train(make("train.async_checkpoints=true"))
    assert order[:6] == ["flush", "write"] * 3
    assert read_state(tmp_path / "run/ckpt/6")["step"] == 6
