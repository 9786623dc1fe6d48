"""What tests of commands have in common: a command that is wrong ends in one sentence."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poa_plugin.cli import main

NOBODY = 65534


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that is wrong; return its one sentence."""
    capsys.readouterr()
    status = main(list(argv))
    captured = capsys.readouterr()
    assert status == 2, (status, captured.err)
    lines = captured.err.splitlines(keepends=True)
    said = "".join(line for line in lines if not line.startswith("poa: warning: "))
    assert said.startswith("poa: ")
    assert said.count("\n") == 1
    assert said.endswith(".\n")
    return said


@contextmanager
def as_another_user() -> Iterator[None]:
    """Be a user without rights; the root user may write and read everything."""
    if os.geteuid() != 0:
        pytest.skip("only the root user can become another")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may look into; pytest's own are for their owner."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def tree(folder: Path) -> list[str]:
    """Return the names of all files and folders under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
