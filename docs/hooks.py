"""MkDocs hooks: the decisions in the navigation, and the help of every command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DECISIONS = "decisions/"
COMMAND_LINE = "command_line.md"


def on_config(config: Any) -> None:
    """Put the pages of `docs/decisions/` where the navigation names the folder."""
    folder = Path(config["docs_dir"])
    pages = sorted(file.name for file in (folder / DECISIONS).glob("*.md"))
    for section in config["nav"]:
        [(title, entries)] = section.items()
        if isinstance(entries, list):
            section[title] = [
                {name: [DECISIONS + page for page in pages]} if path == DECISIONS else {name: path}
                for entry in entries
                for name, path in entry.items()
            ]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add what `--help` prints to the page of the command line."""
    if page.file.src_uri != COMMAND_LINE:
        return markdown
    from poa_plugin.cli import build_parser

    os.environ["COLUMNS"] = "92"
    return "\n".join([markdown, "## Every command", "", *_help(build_parser())])


def _help(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a section for each command that does something, in the order in which `poa --help` lists them."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield f"### {parser.prog}\n\n```text\n{parser.format_help().strip()}\n```\n"
    for group in groups:
        for command in group.choices.values():
            yield from _help(command)
