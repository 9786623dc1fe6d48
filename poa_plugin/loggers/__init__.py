"""Loggers: where a run's metrics go beside `metrics.jsonl`, by the names in `train.loggers`."""

from __future__ import annotations

from poa_plugin.loggers import mlflow, tensorboard, trackio, wandb
from poa_plugin.loggers.base import Logger, remember, remembered
from poa_plugin.loggers.relay import Loggers, check_loggers

__all__ = [
    "Logger",
    "Loggers",
    "check_loggers",
    "mlflow",
    "remember",
    "remembered",
    "tensorboard",
    "trackio",
    "wandb",
]
