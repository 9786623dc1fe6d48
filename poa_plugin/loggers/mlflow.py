"""MLflow: one MLflow run for each run, on a tracking server or in files below the run's folder."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poa_plugin.config.fields import show, text
from poa_plugin.loggers.base import FOLDER, Logger, remember, remembered
from poa_plugin.registry import LOGGERS

PARAMETERS_AT_ONCE, LONGEST_PARAMETER = 100, 500
"""What every MLflow server accepts: parameters in a request, and characters of a parameter."""


@dataclass
class Options:
    """MLflow. A server's user and password are `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`."""

    tracking_uri: str | None = text(
        None,
        "where it stores; null: what `MLFLOW_TRACKING_URI` says, else files in the run's `loggers/mlflow`",
        may_be_empty=False,
    )
    experiment: str = text("poa", "the experiment of the run, made if need be", may_be_empty=False)


@LOGGERS.register_as("mlflow")
class MLflow(Logger):
    """Logs through a client, so that a program that uses MLflow's global run is not disturbed."""

    Options = Options
    package, install = "mlflow", "poa-plugin[mlflow]"

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        """See `Logger.open`."""
        from mlflow.tracking import MlflowClient

        chosen = self.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
        if not chosen:
            # A store of one run needs no database, which is MLflow's default, and works on any file system.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = MlflowClient(chosen or (run / FOLDER / "mlflow").resolve().as_uri())
        facts = remembered(run, "mlflow")
        if facts.get("id") and facts.get("tracking_uri") == chosen:
            self.id = facts["id"]
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self._new_run(run.resolve().name)
        remember(run, "mlflow", {"id": self.id, "tracking_uri": chosen})
        self._log_parameters(config)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        from mlflow.entities import Metric

        timestamp = int(1000 * time.time())
        metrics = [Metric(name, value, timestamp, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        """See `Logger.close`."""
        self.client.set_terminated(self.id)

    def _new_run(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(self.options.experiment)
        if experiment is None:
            number = self.client.create_experiment(self.options.experiment)
        else:
            number = experiment.experiment_id
        return str(self.client.create_run(number, run_name=name).info.run_id)

    def _log_parameters(self, config: dict[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = iter([Param(name, value) for name, value in _flat("", config)])
        while batch := list(itertools.islice(parameters, PARAMETERS_AT_ONCE)):
            self.client.log_batch(self.id, params=batch)


def _flat(prefix: str, section: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield values as text by dotted key."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", show(value)[:LONGEST_PARAMETER]
