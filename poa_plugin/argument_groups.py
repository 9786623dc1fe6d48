"""Arguments that several commands of `poa` have, their ranges, and how commands are added to the parser."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from poa_plugin.arguments import KEY_VALUE, IntegerRange, Parser, RealRange, path, path_text
from poa_plugin.examples import epilog

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]
    """Where commands are added."""

SIDE, WIDTH, NEIGHBORS = IntegerRange(1, 8192), IntegerRange(1, 65536), IntegerRange(1, 1_000_000)
THREADS, WORKERS = IntegerRange(1, 1024), IntegerRange(0, 256)
RANKS, UTILIZATION = IntegerRange(1, 65536), RealRange(1e-4, 1.0)
TEMPERATURE, MINUTES = RealRange(1e-4, 1e4), RealRange(0.01, 1e5)


def add_command(
    subcommands: Commands,
    name: str,
    run: object,
    text: str,
    writes: bool = False,
) -> Parser:
    """Add a command; one that `writes` works on where what it prints is lost."""
    prog = f"{subcommands._prog_prefix} {name}"
    parser = subcommands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog(prog)
    )
    parser.set_defaults(run=run, writes=writes)
    return parser


def add_group(
    subcommands: Commands, name: str, metavar: str, text: str, is_optional: bool = False
) -> Commands:
    """Add a command that has sub-commands, and may run without if they are optional; return where to add."""
    prog = f"{subcommands._prog_prefix} {name}"
    description = f"{text[0].upper()}{text[1:]}."
    parser = subcommands.add_parser(name, help=text, description=description, epilog=epilog(prog))
    return parser.add_subparsers(required=not is_optional, metavar=metavar)


def add_config(parser: Parser) -> None:
    """Add the recipe, and the overrides of its values."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        type=path_text,
        help="a recipe's name, a YAML file, or the folder of a run",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar=KEY_VALUE, help="override values of the file"
    )


def add_run_folder(parser: Parser) -> None:
    """Add the folder of a run."""
    parser.add_argument("run_folder", metavar="RUN", type=path, help="a run's output folder")


def add_branch(parser: Parser) -> None:
    """Add `--branch`."""
    parser.add_argument(
        "--branch",
        choices=("teacher", "student"),
        default="teacher",
        help="which of the two networks that are trained",
    )


def add_threads(parser: Parser) -> None:
    """Add `--threads`."""
    parser.add_argument(
        "--threads", type=THREADS, metavar="N", help="of the CPU; torch chooses if left out"
    )


def add_data(parser: Parser) -> None:
    """Add `--data`."""
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH|key=value",
        help="other images: a path, and data. and evaluation. keys",
    )


def add_results_to(parser: Parser, what: str) -> None:
    """Add `--to` of an evaluation.

    Args:
        parser: of the command.
        what: goes there.
    """
    parser.add_argument(
        "--to", type=path, metavar="FOLDER", help=f"for {what}; RUN/eval if left out"
    )


def add_results(parser: Parser, command: str) -> None:
    """Add `--results`.

    Args:
        parser: of the command.
        command: that wrote them.
    """
    parser.add_argument(
        "--results",
        type=path,
        metavar="FOLDER",
        help=f"what {command} wrote; RUN/eval if left out",
    )


def add_force(parser: Parser) -> None:
    """Add `--force`."""
    parser.add_argument(
        "--force", action="store_true", help="replace what was extracted there, and nothing else"
    )


def add_imports(parser: Parser, what: str) -> None:
    """Add `--imports`.

    Args:
        parser: of the command.
        what: the packages register.
    """
    parser.add_argument(
        "--imports", nargs="+", default=[], metavar="PACKAGE", help=f"that register {what}"
    )


def add_votes(parser: Parser) -> None:
    """Add how k-NN votes."""
    parser.add_argument(
        "--k",
        nargs="+",
        type=NEIGHBORS,
        help="neighbors; those of 10, 20, 100 and 200 that fit if left out",
    )
    parser.add_argument(
        "--temperature", type=TEMPERATURE, default=0.07, help="of the votes' softmax"
    )


def add_memory(parser: Parser) -> None:
    """Add how much memory features may take."""
    parser.add_argument("--memory", default="4G", metavar="SIZE", help="bytes, such as 512M")
