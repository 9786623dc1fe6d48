"""Scripts that complete `poa`'s commands, options and files at the Tab key."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from poa_plugin.arguments import path, path_text
from poa_plugin.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell.

    Args:
        parser: of all commands; arguments of the types `path` and `path_text` complete files.
        shell: one of SHELLS.

    Raises:
        UserError: the package `shtab` is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UserError("Completion needs the package shtab: pip install shtab.") from error
    for action in _all_actions(parser):
        if action.type in (path, path_text):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub_command in action.choices.values():
                yield from _all_actions(sub_command)
