"""The command line: `poa train`, `networks`, `extract`, `export`, `import`, `eval`, `sweep`, `pick`, ..."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from poa_plugin import commands
from poa_plugin.arguments import Parser
from poa_plugin.console import guarded_console
from poa_plugin.errors import UserError
from poa_plugin.examples import epilog
from poa_plugin.failures import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence on stderr and exit status 2.

    An output that cannot be written ends no work. `POA_DEBUG=1` or `--debug` shows tracebacks, too.
    """
    argument_list = sys.argv[1:] if argv is None else list(argv)
    with guarded_console() as console:
        is_result = True
        try:
            arguments = build_parser().parse_args(argument_list)
            _check_current_folder()
            is_result = not (arguments.writes or getattr(arguments, "to", None))
            status = int(arguments.run(arguments) or 0)
        except SystemExit as end:  # argparse has printed the help or the version
            code = end.code if isinstance(end.code, int) else 0
            raise SystemExit(console.exit_status(code, is_result)) from None
        except BaseException as error:
            status = say(error, argument_list)
        return console.exit_status(status, is_result)


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="poa",
        description="Pre-train one elastic network; take out models of all sizes.",
        epilog=epilog("poa"),
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, too")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in commands.IN_ORDER:
        add(subcommands)
    parser.set_defaults(main_parser=parser)
    return parser


def _check_current_folder() -> None:
    """Raise if the current folder has been removed: libraries that load each other end the process then."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise UserError(
            "The current folder no longer exists: go to another one with 'cd', and run the command again."
        ) from error


class _Version(argparse.Action):
    """Prints the version, which takes some milliseconds to find out and is not for every start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from poa_plugin.version import __version__

        print(f"poa {__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
