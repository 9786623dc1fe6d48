"""Signals: before the first step they end the command at once, then it saves; what is ignored stays ignored."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from poa_plugin.cli import main
from poa_plugin.config.load import save_config
from poa_plugin.data.datasets import Dataset
from poa_plugin.ssl import POA
from poa_plugin.train import checkpoint, loop
from poa_plugin.train.loop import train
from poa_plugin.train.stopping import StopRequest, stop_on_signals
from tests.conftest import Make


@pytest.fixture
def signal_in_a_step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that the process gets in its second step."""
    honest, sent = POA.forward_backward, []

    def stopping(self: POA, *arguments: Any, **keywords: Any) -> dict[str, Tensor]:
        if int(self.step) == 1:
            for number in sent:
                os.kill(os.getpid(), number)
        return honest(self, *arguments, **keywords)

    monkeypatch.setattr(POA, "forward_backward", stopping)
    return sent


@pytest.fixture
def ignored_hangup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_saves(
    make: Make, tmp_path: Path, signal_in_a_step: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(make(), tmp_path / "config.yaml")
    signal_in_a_step.append(signal.SIGHUP)
    assert main(["train", str(tmp_path / "config.yaml")]) == 129
    assert checkpoint.steps(tmp_path / "run/ckpt") == [2]
    printed = capsys.readouterr().out
    assert "SIGHUP: saving after this step" in printed
    assert f"poa train {tmp_path / 'run'}\n" in printed
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.usefixtures("ignored_hangup")
def test_a_hangup_that_is_ignored_stays_ignored(make: Make, signal_in_a_step: list[int]) -> None:
    signal_in_a_step.append(signal.SIGHUP)
    assert train(make("optim.epochs=1")).finished


def test_a_message_that_interrupts_a_print_or_a_closed_console(
    make: Make, tmp_path: Path, signal_in_a_step: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_in_a_step.append(signal.SIGTERM)
    honest = sys.stdout.write

    def refuse(text: str) -> int:
        if "saving after" in text:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")
        return honest(text)

    monkeypatch.setattr(sys.stdout, "write", refuse)
    assert train(make()).signal == signal.SIGTERM
    assert checkpoint.steps(tmp_path / "run/ckpt") == [2]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_the_first_step_there_is_nothing_to_save(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals,
) -> None:
    def slow(*arguments: object) -> Dataset:
        os.kill(os.getpid(), sent)
        raise AssertionError("not reached")

    monkeypatch.setattr(loop, "open_images", slow)
    with pytest.raises(KeyboardInterrupt if sent == signal.SIGINT else SystemExit) as raised:
        train(make())
    if isinstance(raised.value, SystemExit):
        assert raised.value.code == 128 + sent
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"poa: {sent.name}: ended before the first step, nothing was trained"
        )
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        stop.training = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_left_to_the_main_thread() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    inside: list[Any] = []

    def act() -> None:
        with stop_on_signals():
            inside.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert inside == before


def test_of_several_ranks_none_ends_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that came after the ranks agreed on the step waits for the next one."""
    stop = StopRequest()
    stop.training = True
    stop(signal.SIGTERM, None)
    assert stop.ends(0)
    monkeypatch.setattr("poa_plugin.ranks.world", lambda: 2)
    assert not stop.ends(0)
    assert stop.ended_by is None
    stop(signal.SIGINT, None)  # the launcher passes on what the rank has got itself: no interrupt
    assert stop.ends(int(signal.SIGTERM))
    assert stop.ended_by == signal.SIGTERM
