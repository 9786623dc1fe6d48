"""Our side of the contract with W&B, MLflow and Trackio, without them (`test_real_trackers` has them)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from poa_plugin.errors import UserError
from poa_plugin.loggers import Loggers
from poa_plugin.train.loop import train
from tests.conftest import Make
from tests.loggers.fakes import FakeInit, FakeMlflowClient, install
from tests.train.test_loop import lines


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeInit:
    init = FakeInit("id")
    install(monkeypatch, "wandb", init=init, Settings=SimpleNamespace)
    return init


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeInit:
    init = FakeInit("name")
    install(monkeypatch, "trackio", init=init)
    return init


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> type[FakeMlflowClient]:
    monkeypatch.setattr(FakeMlflowClient, "stores", {})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    install(monkeypatch, "mlflow")
    install(monkeypatch, "mlflow.tracking", MlflowClient=FakeMlflowClient)
    install(
        monkeypatch,
        "mlflow.entities",
        Metric=lambda *values: values,
        Param=lambda *values: values,
    )
    return FakeMlflowClient


def stop_and_resume(make: Make, run: Path, *overrides: str) -> None:
    """Train to the end, lose the last checkpoint, and go on: steps 4 and 5 come twice."""
    overrides = ("train.log_period=1", *overrides)
    train(make(*overrides))
    shutil.rmtree(run / "ckpt/6")
    train(make(*overrides))
    assert [line["step"] for line in lines(run)] == [*range(6)]


TWICE = [*range(6), 4, 5]


def test_wandb(make: Make, tmp_path: Path, wandb: FakeInit) -> None:
    run = tmp_path / "run"
    options = ["train.logger_options.wandb.entity=us", "train.logger_options.wandb.mode=offline"]
    stop_and_resume(make, run, "train.loggers=[wandb]", *options)
    identity = json.loads((run / "loggers/wandb.json").read_text())["id"]
    assert list(wandb.runs) == [identity]
    assert [step for step, _ in wandb.runs[identity].logged] == TWICE
    assert wandb.runs[identity].logged[0][1]["loss"] == lines(run)[0]["loss"]
    assert wandb.runs[identity].finished == 2
    first, again = wandb.calls
    assert first | {"config": None} == again | {"config": None}
    assert (first["project"], first["entity"], first["mode"]) == ("poa", "us", "offline")
    assert (first["name"], first["dir"]) == ("run", str(run / "loggers"))
    assert first["config"]["optim"]["epochs"] == 2
    shutil.copytree(run / "ckpt", tmp_path / "other/ckpt")
    train(make("train.loggers=[wandb]", f"output_dir={tmp_path / 'other'}", "optim.epochs=3"))
    assert len(wandb.runs) == 2, "another folder is another run"


def test_wandbs_own_mode(make: Make, tmp_path: Path, wandb: FakeInit) -> None:
    Loggers(tmp_path, make("train.loggers=[wandb]"), 0).close()
    assert wandb.calls[0]["mode"] is None


def test_trackio(make: Make, tmp_path: Path, trackio: FakeInit) -> None:
    run = tmp_path / "run"
    stop_and_resume(make, run, "train.loggers=[trackio]")
    [name] = trackio.runs
    assert name.startswith("run-")
    assert [step for step, _ in trackio.runs[name].logged] == TWICE
    assert trackio.runs[name].finished == 2
    assert (trackio.calls[0]["project"], trackio.calls[0]["space_id"]) == ("poa", None)
    Loggers(tmp_path, make("train.loggers=[trackio]"), 0).close()
    assert len(trackio.runs) == 2


def test_mlflow(
    make: Make,
    tmp_path: Path,
    mlflow: type[FakeMlflowClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    stop_and_resume(make, run, "train.loggers=[mlflow]")
    store = (run / "loggers/mlflow").as_uri()
    [ours] = mlflow.stores[store].values()
    assert (ours.name, ours.experiment, ours.status) == ("run", "poa", "FINISHED")
    assert [step for step, name, _ in ours.logged if name == "loss"] == TWICE
    assert len(ours.params) > 60
    assert ours.params["optim.epochs"] == "2"
    assert ours.params["dino.head_n_prototypes"] == "[16, 24]"

    server = "http://localhost:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    Loggers(run, make("train.loggers=[mlflow]"), 0).close()
    assert list(mlflow.stores[server]) == ["id0"], "another server has its own run"
    option = f"train.logger_options.mlflow.tracking_uri={store}"
    Loggers(run, make("train.loggers=[mlflow]", option), 0).close()
    assert list(mlflow.stores[store]) == ["id0", "id1"]


@pytest.mark.parametrize("content", ["[]", "{", '{"id": 3}'])
def test_a_damaged_identity(make: Make, tmp_path: Path, wandb: FakeInit, content: str) -> None:
    (tmp_path / "loggers").mkdir()
    (tmp_path / "loggers/wandb.json").write_text(content)
    with pytest.raises(UserError, match=r"wandb.json'.* is damaged"):
        Loggers(tmp_path, make("train.loggers=[wandb]"), 0)
    assert not wandb.calls
