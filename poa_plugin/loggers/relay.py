"""Passes metrics to loggers in threads: a logger that fails or hangs neither ends a training nor delays it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.files import disk_errors
from poa_plugin.loggers.base import Logger
from poa_plugin.registry import LOGGERS

MOST_WAITING = 10_000
"""Calls that may wait for a logger; one that is further behind is disabled."""
FLUSH_SECONDS, CLOSE_SECONDS = 10.0, 90.0
"""How long a training waits for all its loggers together, before a checkpoint and at its end."""


def check_loggers(config: Config) -> None:
    """Raise if the package of a logger that a configuration names is missing.

    Raises:
        UserError: a name is unknown, or the package that a logger needs is not installed.
    """
    for name in config.train.loggers:
        kind = LOGGERS.get(name)
        package = getattr(kind, "package", "")
        if package and package not in sys.modules and find_spec(package) is None:
            raise UserError(
                f"The logger '{name}' needs the package {package}: pip install '{kind.install}', or remove "
                f"'{name}' from train.loggers."
            )


class Loggers:
    """The loggers of a run, each in its thread.

    Args:
        run: the run's folder, which exists.
        config: a resolved configuration.
        step: the first step that is going to be logged.

    Raises:
        UserError: a logger cannot be opened; those before it are closed again.
    """

    def __init__(self, run: Path, config: Config, step: int) -> None:
        self._relays: list[_Relay] = []
        values = plain_values(config)
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for name in dict.fromkeys(config.train.loggers):
                self._relays.append(_Relay(name, _open(name, run, config, values, step)))
            on_failure.pop_all()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand values to every logger; returns at once."""
        for relay in self._relays:
            relay.log(step, dict(values))

    def flush(self) -> None:
        """Wait until the loggers have processed what they were handed; for a slow one, only once."""
        marks = [relay.mark() for relay in self._relays if relay.has_passed_mark]
        deadline = time.monotonic() + FLUSH_SECONDS
        for mark in marks:
            mark.wait(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Close all loggers; one that takes too long is abandoned with a warning."""
        for relay in self._relays:
            relay.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        for relay in self._relays:
            relay.wait(max(0.0, deadline - time.monotonic()))


def plain_values(config: Config) -> dict[str, Any]:
    """Return a configuration as plain values for display, of the backbones only the chosen one's."""
    values = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, config)))
    student = values["student"]
    values["student"] = {key: student[key] for key in ("arch", student["arch"])}
    del values["train"]["logger_options"]
    return values


def _open(name: str, run: Path, config: Config, values: dict[str, Any], step: int) -> Logger:
    kind = LOGGERS.get(name)
    has_options = getattr(kind, "Options", None) is not None
    try:
        logger = cast(Logger, kind(config.train.logger_options[name] if has_options else None))
        with disk_errors(run):
            logger.open(run, values, step)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"The logger '{name}' cannot be opened: {_reason(error)}. Fix that, or remove '{name}' from "
            f"train.loggers; a run may resume with other loggers."
        ) from error
    return logger


class _Relay:
    """One logger, and the calls that wait for it."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self._dropped, self._lock = False, threading.Lock()
        self._mark: threading.Event | None = None
        self._calls: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Have values logged."""
        self._hand_over(lambda: self._attempt(lambda: self.logger.log(step, values), step))

    def mark(self) -> threading.Event:
        """Return an event that is set when the calls before this one are done."""
        self._mark = threading.Event()
        if not self._hand_over(self._mark.set):
            self._mark.set()
        return self._mark

    @property
    def has_passed_mark(self) -> bool:
        """Whether the calls before the last `mark` are done."""
        return self._mark is None or self._mark.is_set()

    def close(self) -> None:
        """Have the logger closed after the calls before this one."""
        self._hand_over(lambda: self._attempt(self.logger.close, None))
        with suppress(Full):  # its thread ends with the program then
            self._calls.put_nowait(None)

    def wait(self, seconds: float) -> None:
        """Wait until the logger is closed."""
        self._thread.join(0.0 if self._dropped else seconds)
        if self._thread.is_alive():
            self._drop("takes too long to finish, and was abandoned")

    def _hand_over(self, call: Callable[[], None]) -> bool:
        """Have the logger's thread call something; return whether it will."""
        if self._dropped:
            return False
        try:
            self._calls.put_nowait(call)
        except Full:
            self._drop(
                f"is {MOST_WAITING} records behind, and is disabled until the run is resumed"
            )
            return False
        return True

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _attempt(self, call: Callable[[], None], step: int | None) -> None:
        if self._dropped:
            return
        try:
            call()
        except BaseException as error:  # nothing in a logger may end a training, not even sys.exit
            when = (
                "at its end"
                if step is None
                else f"at step {step}, and is disabled until the run is resumed"
            )
            self._drop(f"failed {when}: {_reason(error)}")
            if step is not None:
                with suppress(BaseException):  # the failure has been reported
                    self.logger.close()

    def _drop(self, what: str) -> None:
        """Disable the logger, with one warning."""
        with self._lock:
            already, self._dropped = self._dropped, True
        if not already:
            sentence = f"The logger '{self.name}' {what}. Training and metrics.jsonl continue."
            print(f"\npoa: warning: {sentence}", file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
    """Return an exception's kind and message on one line, without a period."""
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
