"""The commands of README and docs: which are run as they are written, and which only have to be understood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "<!-- needs "
"""Begins a comment above a block, of commands or of Python, that needs what is not at hand."""
COMMAND = re.compile(r"    ((?:PYTHONPATH=\. )?(?:poa|python|pip|make) .*)$")
SNIPPET = re.compile(r'--8<-- "([\w./]+)"$')
"""Stands for the text of a file of the repository, in a fenced block."""
FENCE = re.compile(r'```(?: \{\.)?python(?: title="([\w./]+)")?\}?$')
"""Begins a block of Python; with braces, one that ruff does not format, as it would a snippet."""


class Command(NamedTuple):
    """A command, and what it needs beyond a clone and the run of `make demo`; nothing if that is empty."""

    text: str
    needs: str


class Python(NamedTuple):
    """A fenced block of Python; a block with a title is the file of that name."""

    text: str
    title: str
    needs: str


def readme_commands(file: Path = ROOT / "README.md") -> list[Command]:
    """Return the lines of indented blocks that begin with `poa`, `python`, `pip` or `make`, in order.

    A line that ends in a backslash goes on in the next one.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    commands: list[Command] = []
    goes_on = False
    for line, needs, fenced in _marked(lines):
        match = None if fenced else COMMAND.match(line)
        if goes_on:
            commands[-1] = commands[-1]._replace(text=commands[-1].text[:-1] + line.strip())
        elif match:
            commands.append(Command(match[1], needs))
        goes_on = bool(match or goes_on) and line.endswith("\\")
    return commands


def python_blocks(file: Path) -> list[Python]:
    """Return the fenced blocks of Python of a page, in order."""
    blocks: list[Python] = []
    is_python = False
    for line, needs, fenced in _marked(file.read_text(encoding="utf-8").splitlines()):
        if not fenced:
            match = FENCE.match(line)
            is_python = match is not None
            blocks += [Python("", match[1] or "", needs)] if match else []
        elif is_python:
            snippet = SNIPPET.match(line)
            text = (ROOT / snippet[1]).read_text(encoding="utf-8") if snippet else f"{line}\n"
            blocks[-1] = blocks[-1]._replace(text=blocks[-1].text + text)
    return blocks


def pages() -> list[Path]:
    """Return the pages of the docs."""
    return sorted((ROOT / "docs").glob("*.md"))


def _marked(lines: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield each line, what the comment above its block says that it needs, and whether it is fenced."""
    needs, fenced = "", False
    for line in lines:
        is_fence = line.startswith("```")
        if line.startswith(ELSEWHERE):
            needs = line.removeprefix(ELSEWHERE).removesuffix("-->").strip()
        elif line and not line.startswith(" ") and not is_fence and not fenced:
            needs = ""
        yield line, needs, fenced and not is_fence
        fenced ^= is_fence
