"""Simulated kills: an exception that nothing catches, before the n-th operation on files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OPERATIONS = ("rename", "replace", "mkdir", "unlink", "rmdir", "fsync", "chmod", "link", "utime")


class Killed(BaseException):
    """In the place of SIGKILL: no `except Exception` or `except OSError` sees it."""


@contextmanager
def killed_before(operation: int, error: BaseException | None = None) -> Iterator[None]:
    """Raise `Killed` in the place of the n-th operation on files, counted from 0, and of all after it.

    Or another error: a disk that refuses from then on.
    """
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count > operation:
                raise error or Killed
            return original(*arguments, **keywords)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield


def at_every_point(prepare: Callable[[], None], act: Callable[[], object]) -> Iterator[int]:
    """Yield after each kill of `act`, prepared anew: first before its first operation, then its second, ..."""
    operation = 0
    while True:
        prepare()
        try:
            with killed_before(operation):
                act()
        except Killed:
            yield operation
        else:
            return
        operation += 1
