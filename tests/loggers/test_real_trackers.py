"""W&B, MLflow and Trackio themselves, offline; each is skipped where it is not installed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from poa_plugin.train.metrics import scalars
from tests.train.test_loop import lines

Train = Callable[..., str]
STEPS, AGAIN = [*range(6)], [4, 5]


@pytest.fixture
def train(tmp_path: Path, demo_overrides: list[str]) -> Train:
    """Return a function that trains in a process of its own, where a tracker writes below `tmp_path`."""
    home = tmp_path / "home"
    home.mkdir()

    def run(*overrides: str, **variables: str) -> str:
        command = [sys.executable, "-m", "poa_plugin", "train", *demo_overrides, "optim.epochs=3"]
        command += ["train.checkpoint_period=2", f"output_dir={tmp_path / 'run'}", *overrides]
        without = ("WANDB_", "MLFLOW_", "TRACKIO_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(without)}
        env |= {"HOME": str(home), "TRACKIO_DIR": str(tmp_path / "trackio"), **variables}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "poa: warning: The logger" not in ended.stderr
        return ended.stdout + ended.stderr

    return run


def lose_last(run: Path) -> None:
    """Take the last checkpoint away, so that steps 4 and 5 come again."""
    shutil.rmtree(run / "ckpt/6")


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield what W&B wrote offline: protobufs in the blocks of a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    data, position, part = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def test_wandb_offline(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    train("train.loggers=[wandb]", WANDB_MODE="offline")
    lose_last(run)
    train("train.loggers=[wandb]", "train.logger_options.wandb.mode=offline")
    identity = json.loads((run / "loggers/wandb.json").read_text())["id"]
    files = sorted((run / "loggers/wandb").glob(f"offline-run-*-{identity}*/run-{identity}.wandb"))
    assert len(files) == 2
    logged = []
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        rows = []
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                assert (record.run.run_id, record.run.project) == (identity, "poa")
            for item in [record.history.item] if record.HasField("history") else []:
                rows.append({(i.key or "/".join(i.nested_key)): i.value_json for i in item})
        logged.append(rows)
    assert [[int(row["_step"]) for row in rows] for rows in logged] == [STEPS, AGAIN]
    for row, line in zip(logged[0][:4] + logged[1], lines(run), strict=True):
        values = {name: float(value) for name, value in row.items() if name[0] != "_"}
        assert values == pytest.approx(scalars(line))


def test_mlflows_files(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    run = tmp_path / "run"
    train("train.loggers=[mlflow]")
    lose_last(run)
    train("train.loggers=[mlflow]")
    script = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
[run] = client.search_runs([client.get_experiment_by_name("poa").experiment_id])
history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
print(json.dumps({
    "id": run.info.run_id, "name": run.info.run_name, "status": run.info.status,
    "params": run.data.params,
    "metrics": {name: [[m.step, m.value] for m in values] for name, values in history.items()},
}))
"""
    store = (run / "loggers/mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    command = [sys.executable, "-c", script, store]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    actual = json.loads(output.splitlines()[-1])
    identity = json.loads((run / "loggers/mlflow.json").read_text())["id"]
    assert (actual["id"], actual["name"], actual["status"]) == (identity, "run", "FINISHED")
    assert actual["params"]["train.log_period"] == "1"
    logged = {step: {} for step in STEPS}
    for name, values in actual["metrics"].items():
        steps = [step for step, _ in values]
        assert steps in (STEPS + AGAIN, AGAIN + AGAIN), "masked patches join at step 4"
        for step, value in values:
            logged[step][name] = value
    assert list(logged.values()) == [pytest.approx(scalars(line)) for line in lines(run)]


def test_trackio_on_this_machine(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    run = tmp_path / "run"
    train("train.loggers=[trackio]")
    lose_last(run)
    train("train.loggers=[trackio]")
    name = json.loads((run / "loggers/trackio.json").read_text())["name"]
    with closing(sqlite3.connect(tmp_path / "trackio/poa.db")) as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {row[0] for row in rows} == {name}
    assert [row[1] for row in rows] == STEPS + AGAIN
    for row, line in zip(rows[:4] + rows[6:], lines(run), strict=True):
        assert json.loads(row[2]) == pytest.approx(scalars(line))


def test_a_server_that_is_not_there(demo_overrides: list[str], tmp_path: Path) -> None:
    """Nothing is trained for hours without being logged."""
    pytest.importorskip("mlflow")
    overrides = ["train.loggers=[tensorboard,mlflow]", f"output_dir={tmp_path / 'run'}"]
    overrides += ["train.logger_options.mlflow.tracking_uri=http://127.0.0.1:9"]
    env = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "poa_plugin", "train", *demo_overrides, *overrides]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ended.returncode == 2
    assert "poa: The logger 'mlflow' cannot be opened: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()


class Server(BaseHTTPRequestHandler):
    """As much of MLflow's server as a run needs; it goes away when it has got the third line."""

    lines = 0

    def do_GET(self) -> None:
        self._answer({"experiment": {"experiment_id": "1", "name": "poa"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        info = {"run_id": "a1", "run_uuid": "a1", "experiment_id": "1", "status": "RUNNING"}
        self._answer({"run": {"info": info, "data": {}}})
        Server.lines += bool(body.get("metrics"))
        if Server.lines == 3:
            threading.Thread(target=self._go_away).start()

    def _go_away(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_that_goes_away(demo_overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    overrides = ["train.loggers=[tensorboard,mlflow]", f"output_dir={tmp_path / 'run'}"]
    overrides += [f"train.logger_options.mlflow.tracking_uri={address}", "optim.epochs=10"]
    env = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "poa_plugin", "train", *demo_overrides, *overrides]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    server.shutdown()  # if it has not done so itself
    thread.join()
    assert Server.lines == 3
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("poa: warning: The logger 'mlflow' failed at step 3") == 1
    assert "Traceback" not in ended.stderr
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(20))
