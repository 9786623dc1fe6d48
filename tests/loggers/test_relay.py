"""What loggers get, and that no fault of theirs reaches a training."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.loggers import Loggers, relay
from poa_plugin.train.loop import train
from poa_plugin.train.metrics import scalars
from tests.conftest import Make
from tests.loggers.conftest import Recorder
from tests.train.test_loop import lines, timeless, weights

BOTH = "train.loggers=[recorder,second]"


def test_loggers_get_the_lines(make: Make, tmp_path: Path, recorder: type[Recorder]) -> None:
    train(make("train.loggers=[recorder]", "train.logger_options.wandb.project=unused"))
    (opened, config, start), *logged, closed = recorder.calls
    assert (opened, start, closed) == ("open", 0, ("close",))
    assert config["student"].keys() == {"arch", "vit"}
    assert config["train"]["log_period"] == 2
    assert "logger_options" not in config["train"]
    actual = lines(tmp_path / "run")
    assert logged == [("log", line["step"], scalars(line)) for line in actual]
    for line, (_, _, values) in zip(actual, logged, strict=True):
        assert all(type(value) in (int, float) for value in values.values())
        assert values["loss"] == line["loss"]
        assert values["terms/same_view_global"] == line["terms"]["same_view_global"]
        heads = line["terms_by_head"]["same_view_global"]
        assert [values[f"terms_by_head/same_view_global/{i}"] for i in range(2)] == heads
        assert {"grad_norm/backbone", "data_seconds", "step_seconds", "lr"} <= values.keys()


def test_none_and_the_same_twice(make: Make, tmp_path: Path, recorder: type[Recorder]) -> None:
    train(make("train.loggers=[]"))
    assert not (tmp_path / "run/events").exists()
    assert len(lines(tmp_path / "run")) == 3
    train(make("train.loggers=[recorder,recorder]", f"output_dir={tmp_path / 'two'}"))
    assert [name for name, *_ in recorder.calls] == ["open", "log", "log", "log", "close"]


def test_a_run_that_resumes_may_have_other_loggers(
    make: Make, tmp_path: Path, recorder: type[Recorder]
) -> None:
    assert not train(make("train.max_minutes=1e-9")).finished
    train(make("train.loggers=[recorder]", "train.logger_options.mlflow.experiment=other"))
    assert recorder.calls[0][2] == 1, "the step from which the run resumes"
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 3, 5]


def test_what_comes_by_head_is_resumed_exactly(make: Make, tmp_path: Path) -> None:
    """The line of steps 0 to 3 comes of three attempts."""
    overrides = ["train.log_period=4", "train.loggers=[]"]
    train(make(*overrides, f"output_dir={tmp_path / 'whole'}"))
    for _ in range(3):
        train(make(*overrides, "train.max_minutes=1e-9"))
    train(make(*overrides))
    uninterrupted, pieces = (timeless(lines(tmp_path / name)) for name in ("whole", "run"))
    assert uninterrupted == pieces
    assert uninterrupted[0]["terms_by_head"].keys() >= {
        "cross_view_intact_global",
        "same_view_local",
    }


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("log", OSError(28, "No space left on device"), "at step 1, .*OSError: .*No space left"),
        (
            "log",
            RuntimeError("the network\nis down."),
            "at step 1, .*: the network is down. Training",
        ),
        (
            "log",
            SystemExit(1),
            "failed at step 1, and is disabled until the run is resumed: SystemExit: 1. ",
        ),
        ("close", ConnectionError(), "failed at its end: ConnectionError. Training"),
    ],
)
def test_one_that_fails_is_left_out_with_one_warning(
    make: Make,
    tmp_path: Path,
    recorder: type[Recorder],
    second: type[Recorder],
    capsys: pytest.CaptureFixture[str],
    method: str,
    error: BaseException,
    message: str,
) -> None:
    train(make("train.loggers=[]", f"output_dir={tmp_path / 'without'}"))
    recorder.raises[method] = error
    assert train(make(BOTH)).finished
    warnings = capsys.readouterr().err
    assert warnings.count("poa: warning: The logger 'recorder'") == 1
    assert "Traceback" not in warnings
    assert re.search(message, warnings)
    n_logged = 3 if method == "close" else 1
    assert [name for name, *_ in recorder.calls] == ["open", *["log"] * n_logged, "close"]
    assert [name for name, *_ in second.calls] == ["open", "log", "log", "log", "close"]
    actual = [timeless(lines(tmp_path / name)) for name in ("without", "run")]
    assert actual[0] == actual[1]
    ours, theirs = weights(tmp_path / "without"), weights(tmp_path / "run")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_one_that_hangs_is_not_waited_for(
    make: Make,
    tmp_path: Path,
    recorder: type[Recorder],
    second: type[Recorder],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(relay, "CLOSE_SECONDS", 0.2)
    recorder.goes_on.clear()
    began = time.monotonic()
    assert train(make(BOTH)).finished
    assert time.monotonic() - began < 30
    assert "'recorder' takes too long to finish, and was" in capsys.readouterr().err
    assert [name for name, *_ in second.calls] == ["open", "log", "log", "log", "close"]
    assert len(lines(tmp_path / "run")) == 3


def test_one_that_is_far_behind_is_left_out(
    make: Make,
    tmp_path: Path,
    recorder: type[Recorder],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "MOST_WAITING", 3)
    recorder.goes_on.clear()
    loggers = Loggers(tmp_path, make("train.loggers=[recorder]"), 0)
    for step in range(10):
        loggers.log(step, {})
    assert "'recorder' is 3 records behind, and is disabled" in capsys.readouterr().err
    recorder.goes_on.set()
    loggers.flush()
    loggers.close()
    assert len([name for name, *_ in recorder.calls if name == "log"]) <= 1


def test_a_checkpoint_waits_for_what_was_logged(
    make: Make, tmp_path: Path, recorder: type[Recorder]
) -> None:
    loggers = Loggers(tmp_path, make("train.loggers=[recorder]"), 0)
    for step in range(100):
        loggers.log(step, {"loss": 1.0})
    loggers.flush()
    assert [call[1] for call in recorder.calls[1:]] == list(range(100))
    loggers.close()


def test_checkpoints_wait_once_for_one_that_hangs(
    make: Make,
    tmp_path: Path,
    recorder: type[Recorder],
    second: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 0.5)
    recorder.goes_on.clear()
    loggers = Loggers(tmp_path, make(BOTH), 0)
    began = time.monotonic()
    for step in range(60):
        loggers.log(step, {})
        loggers.flush()
        assert second.calls[-1][1] == step
    assert time.monotonic() - began < 15
    recorder.goes_on.set()
    loggers.close()
    assert [call[1] for call in recorder.calls[1:-1]] == list(range(60))


def test_one_that_cannot_be_opened_is_refused_before_training(
    make: Make, tmp_path: Path, recorder: type[Recorder], second: type[Recorder]
) -> None:
    train(make("optim.epochs=1", "train.checkpoint_period=3"))
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    recorder.raises["open"] = ValueError("no key.")
    again = ("train.accept_changes=true", "train.loggers=[second,recorder]")
    with pytest.raises(UserError, match=r"'recorder' cannot be opened: ValueError: no key\. Fix"):
        train(make(*again))
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert second.calls[-1] == ("close",)
    recorder.raises.clear()
    assert train(make(*again)).finished


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_its_extra(
    make: Make, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(relay, "find_spec", lambda package: None)
    message = rf"'{name}' needs the package {name}: pip install 'poa-plugin\[{name}\]', or remove"
    with pytest.raises(UserError, match=message):
        train(make(f"train.loggers=[{name}]"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.loggers=[wanb]", "is [wanb], an unknown logger: did you mean 'wandb'?"),
        ("train.loggers=wandb", "it must be a list of mlflow, "),
        (
            "train.logger_options.wandb.projet=x",
            "did you mean 'train.logger_options.wandb.project'",
        ),
        ("train.logger_options.wandb.mode=off", "did you mean 'offline'?"),
        ("train.logger_options.wandb.project=", "it may not be empty"),
        ("wandb.project=x", "Unknown configuration key 'wandb.project'"),
    ],
)
def test_mistakes_in_the_configuration(make: Make, word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make(word)
    assert message in str(error.value)


USER_LOGGER = """
import json
from dataclasses import dataclass

from omegaconf import MISSING

from poa_plugin.config.fields import number, text
from poa_plugin.registry import LOGGERS
from poa_plugin.loggers import Logger


@dataclass
class Options:
    title: str = text(MISSING, "above the table", may_be_empty=False)
    digits: int = number(3, "digits of a number", at_least=1, at_most=9)


if "my_table" not in LOGGERS:

    @LOGGERS.register_as("my_table")
    class Table(Logger):
        Options = Options

        def open(self, run, config, step):
            self.file = (run / f"{self.options.title}.txt").open("a")

        def log(self, step, values):
            self.file.write(f"{step} {values['loss']:.{self.options.digits}f}\\n")

        def close(self):
            self.file.close()
"""


def test_a_logger_of_ones_own(
    demo_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_loggers.py").write_text(USER_LOGGER)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [
        "imports=[my_loggers]",
        "train.loggers=[my_table]",
        "train.logger_options.my_table={title: table, digits: 2}",
        "optim.epochs=1",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert main(["train", *demo_overrides, *overrides]) == 0
    logged = [f"{line['step']} {line['loss']:.2f}" for line in lines(tmp_path / "run")]
    assert (tmp_path / "run/table.txt").read_text().split("\n")[:-1] == logged
    assert main(["config", "my_table.digits"]) == 0
    assert "a whole number from 1 to 9" in capsys.readouterr().out
    assert (
        main(["train", *demo_overrides, *overrides, "train.logger_options.my_table.digits=10"]) == 2
    )
    assert "from 1 to 9" in capsys.readouterr().err
    resume_overrides = overrides[:2]
    assert main(["train", *demo_overrides, *resume_overrides]) == 2
    assert "'train.logger_options.my_table.title' is missing" in capsys.readouterr().err
    unused = [
        resume_overrides[0],
        "train.loggers=[]",
        "optim.epochs=1",
        f"output_dir={tmp_path / 'unused'}",
    ]
    assert main(["train", *demo_overrides, *unused]) == 0, "it is not missed where it is not used"
    assert main(["train", str(tmp_path / "unused")]) == 0


def test_options_that_are_no_section(make: Make, recorder: type[Recorder]) -> None:
    recorder.Options = dict  # type: ignore[assignment]
    try:
        with pytest.raises(UserError, match="logger 'recorder' needs a dataclass 'Options'"):
            make()
    finally:
        recorder.Options = None


def test_other_lines_are_scalars_too() -> None:
    """A line in which every step was skipped has no loss."""
    line = dict.fromkeys(("epoch", "lr", "weight_decay", "momentum", "teacher_temp"), 1)
    line |= dict.fromkeys(("images_per_second", "data_seconds", "step_seconds"), 0.5)
    record = {**line, "skipped_steps": 2, "loss": None, "subnets": ["w"], "seconds": 3.0}
    actual = scalars({**record, "terms": {}, "terms_by_head": {}, "grad_norm": {}})
    assert actual == {**line, "skipped_steps": 2}
    assert json.dumps(actual)
