"""The interface of loggers, which send a run's metrics elsewhere, in addition to `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from poa_plugin.errors import UserError
from poa_plugin.files import read_json, write_atomically

FOLDER = "loggers"
"""The folder of a run in which loggers store what they need to resume, and what they write offline."""


class Logger:
    """Base of loggers, which are registered by name (`LOGGERS.register_as`) and listed in `train.loggers`.

    `open` is called in the training's thread; an exception there stops the training before its first step.
    `log` and `close` are called in the logger's thread: whatever they raise, and however long they take, the
    training continues (`relay.Loggers`).

    Attributes:
        Options: a dataclass, which becomes the section `train.logger_options.<name>`; None for no options.
        package: the package that it needs, if any, by the name under which it is imported.
        install: what `pip install` takes to install that package.

    Args:
        options: its section of the configuration; None where it has none.
    """

    Options: ClassVar[type | None] = None
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        """Prepare to log, or to resume where an earlier attempt was stopped.

        Args:
            run: the run's folder, which exists.
            config: the resolved configuration as plain values, nested by section.
            step: the first step that is going to be logged; an earlier attempt may have logged steps from this
                one on already, which are then logged again.
        """
        raise NotImplementedError

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics since the last call.

        Args:
            step: the last step that they include; increases from call to call.
            values: means and sums by name, such as `loss` or `terms/koleo_intact`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Finish pending work; nothing is logged after it. It is also called after a `log` that failed."""


def remembered(run: Path, name: str) -> dict[str, str]:
    """Return what a logger of an earlier attempt stored with `remember`; nothing if there was none.

    Raises:
        UserError: its file is damaged or cannot be read.
    """
    file = _file(run, name)
    if not file.exists():
        return {}
    facts = read_json(file)
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise UserError(
            f"'{file}', from which the logger '{name}' resumes its run, is damaged. Remove it, and the logger "
            f"starts a new run."
        )
    return facts


def remember(run: Path, name: str, facts: dict[str, str]) -> None:
    """Store what a logger needs to resume the same run, such as its id, in the run's folder."""
    file = _file(run, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(facts, indent=2) + "\n")


def _file(run: Path, name: str) -> Path:
    return run / FOLDER / f"{name}.json"
