"""Weights & Biases: one W&B run for each run, however often it is stopped and resumed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poa_plugin.config.fields import choice, text
from poa_plugin.loggers.base import FOLDER, Logger, remember, remembered
from poa_plugin.registry import LOGGERS

FINISH_SECONDS = "60"
"""How long W&B uploads at the end, unless the environment says otherwise; `wandb sync` uploads the rest."""


@dataclass
class Options:
    """Weights & Biases. The account's key is set by `wandb login` or `WANDB_API_KEY`."""

    project: str = text("poa", "the project of the run", may_be_empty=False)
    entity: str | None = text(None, "user or team; null: the account's own", may_be_empty=False)
    mode: str = choice(
        "auto",
        ("auto", "online", "offline"),
        "auto: what `WANDB_MODE` says, else online; what is logged offline, `wandb sync` uploads",
    )


@LOGGERS.register_as("wandb")
class WeightsAndBiases(Logger):
    """W&B's step is the training's, also where a run was partly logged offline; W&B accepts each step once."""

    Options = Options
    package, install = "wandb", "poa-plugin[wandb]"

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        """See `Logger.open`."""
        import wandb

        identity = remembered(run, "wandb").get("id") or secrets.token_hex(4)
        remember(run, "wandb", {"id": identity})
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
        self.run = wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=None if self.options.mode == "auto" else self.options.mode,
            id=identity,
            resume="allow",
            name=run.resolve().name,
            dir=str(run / FOLDER),
            config=config,
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger.close`."""
        self.run.finish()
