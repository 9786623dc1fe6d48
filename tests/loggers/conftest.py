"""A logger that writes down what it is called with, and misbehaves when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from poa_plugin.loggers import Logger
from poa_plugin.registry import LOGGERS


class Recorder(Logger):
    """Registered as `recorder`, and as `second`."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012
    raises: dict[str, BaseException] = {}  # noqa: RUF012  (by method)
    goes_on = threading.Event()

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        assert run.is_dir()
        self._called("open", config, step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.goes_on.wait(60)
        self._called("log", step, values)

    def close(self) -> None:
        self._called("close")

    def _called(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, *arguments))
        if method in self.raises:
            raise self.raises[method]


class Second(Recorder):
    """Has calls of its own, and never fails."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012
    raises: dict[str, BaseException] = {}  # noqa: RUF012
    goes_on = threading.Event()


for name, kind in (("recorder", Recorder), ("second", Second)):
    if name not in LOGGERS:
        LOGGERS.register_as(name)(kind)


@pytest.fixture
def recorder() -> Iterator[type[Recorder]]:
    for kind in (Recorder, Second):
        kind.calls.clear()
        kind.raises.clear()
        kind.goes_on.set()
    yield Recorder
    Recorder.goes_on.set()


@pytest.fixture
def second(recorder: type[Recorder]) -> type[Recorder]:
    return Second
