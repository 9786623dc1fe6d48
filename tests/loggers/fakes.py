"""Stand-ins for the packages of trackers: they note what they are called with, and keep runs as those do."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class FakeRun:
    """A run of W&B or Trackio."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


class FakeInit:
    """`init` of W&B or Trackio: the run of a key is resumed, as `resume="allow"` does."""

    def __init__(self, key: str) -> None:
        self.key, self.calls = key, list[dict[str, Any]]()
        self.runs: dict[str, FakeRun] = {}

    def __call__(self, **arguments: Any) -> FakeRun:
        self.calls.append(arguments)
        assert arguments["resume"] == "allow"
        return self.runs.setdefault(arguments[self.key], FakeRun())


class FakeMlflowClient:
    """Stores by tracking URI."""

    stores: dict[str, dict[str, SimpleNamespace]] = {}  # noqa: RUF012

    def __init__(self, tracking_uri: str) -> None:
        self.runs = self.stores.setdefault(tracking_uri, {})

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        experiments = {run.experiment for run in self.runs.values()}
        return SimpleNamespace(experiment_id=name) if name in experiments else None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        name = f"id{len(self.runs)}"
        self.runs[name] = SimpleNamespace(
            experiment=experiment, name=run_name, logged=[], params={}, status="RUNNING"
        )
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def set_terminated(self, run_id: str) -> None:
        self.runs[run_id].status = "FINISHED"

    def log_batch(
        self,
        run_id: str,
        metrics: list[tuple[str, float, int, int]] = [],  # noqa: B006
        params: list[tuple[str, str]] = [],  # noqa: B006
    ) -> None:
        run = self.runs[run_id]
        assert run.status == "RUNNING"
        assert len(params) <= 100
        for name, value in params:
            assert name not in run.params, "MLflow takes a parameter once"
            run.params[name] = value
        run.logged += [(step, name, value) for name, value, _, step in metrics]


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> ModuleType:
    """Have `import name` give a module with some members."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module
