"""The commands of the README: which are run as they are written, and which only have to be understood."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "<!-- needs "
"""Begins a comment above a block of commands that need data or machines which are not at hand."""


class Command(NamedTuple):
    """A command, and what it needs beyond a clone and the run of `make demo`; nothing if that is empty."""

    text: str
    needs: str


def readme_commands(file: Path = ROOT / "README.md") -> list[Command]:
    """Return the lines of indented blocks that begin with `poa`, `python`, `pip` or `make`, in order."""
    commands, needs = [], ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(ELSEWHERE):
            needs = line.removeprefix(ELSEWHERE).removesuffix("-->").strip()
        elif match := re.match(r"    ((?:poa|python|pip|make) .*)$", line):
            commands.append(Command(match[1], needs))
        elif line and not line.startswith(" "):
            needs = ""
    return commands
