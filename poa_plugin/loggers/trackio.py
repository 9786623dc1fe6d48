"""Trackio: one Trackio run for each run, on this machine or in a Hugging Face Space."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poa_plugin.config.fields import text
from poa_plugin.loggers.base import Logger, remember, remembered
from poa_plugin.registry import LOGGERS


@dataclass
class Options:
    """Trackio, whose files lie where `TRACKIO_DIR` says; `trackio show` draws them."""

    project: str = text("poa", "the project of the run", may_be_empty=False)
    space_id: str | None = text(
        None, "the Hugging Face Space to log to; null: this machine", may_be_empty=False
    )


@LOGGERS.register_as("trackio")
class Trackio(Logger):
    """Trackio identifies runs by name, so a few random letters are appended to the folder's name."""

    Options = Options
    package, install = "trackio", "poa-plugin[trackio]"

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        """See `Logger.open`."""
        import trackio

        name = remembered(run, "trackio").get("name")
        name = name or f"{run.resolve().name}-{secrets.token_hex(4)}"
        remember(run, "trackio", {"name": name})
        self.run = trackio.init(
            project=self.options.project,
            name=name,
            space_id=self.options.space_id,
            config=config,
            resume="allow",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger.close`."""
        self.run.finish()
