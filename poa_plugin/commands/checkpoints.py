"""`poa checkpoint`: look at a run's checkpoints, compare them with their checksums, consolidate pieces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from poa_plugin.argument_groups import add_command, add_group
from poa_plugin.arguments import IntegerRange, Parser, path
from poa_plugin.sources import check_run

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands

STEP = IntegerRange(0, 10**9)


def checkpoint_command(subcommands: Commands) -> None:
    """Add `poa checkpoint`."""
    kinds = add_group(subcommands, "checkpoint", "COMMAND", "look at a run's checkpoints")
    inspect = add_command(
        kinds,
        "inspect",
        run_inspect,
        "say what a checkpoint consists of, without reading its tensors",
    )
    _add_run(inspect)
    _add_step(inspect)
    verify = add_command(
        kinds, "verify", run_verify, "compare every checkpoint of a run with its checksums"
    )
    _add_run(verify)
    consolidate = add_command(
        kinds,
        "consolidate",
        run_consolidate,
        "rewrite a checkpoint of several ranks as the files of one process",
        writes=True,
    )
    _add_run(consolidate)
    _add_step(consolidate)


def run_inspect(arguments: argparse.Namespace) -> None:
    """Print what a checkpoint consists of."""
    _check(arguments.checkpoint)

    from poa_plugin.runs.checkpoint_report import choose, description

    print(description(choose(arguments.checkpoint, arguments.step).newest))


def run_verify(arguments: argparse.Namespace) -> int:
    """Print which checkpoints are intact; return the exit status, 1 if one is not."""
    _check(arguments.checkpoint)

    from poa_plugin.runs.checkpoint_report import choose, verification

    status = 0
    for line, is_intact in verification(choose(arguments.checkpoint)):
        print(line, flush=True)
        status = status if is_intact else 1
    return status


def run_consolidate(arguments: argparse.Namespace) -> None:
    """Rewrite a checkpoint of several ranks as the files of one process."""
    _check(arguments.checkpoint)

    from poa_plugin.runs.checkpoint_report import choose
    from poa_plugin.train.checkpoint import clear_unfinished
    from poa_plugin.train.consolidate import consolidate
    from poa_plugin.train.lock import hold

    chosen = choose(arguments.checkpoint, arguments.step)
    with hold(chosen.run):
        clear_unfinished(chosen.root)
        is_new = consolidate(chosen.root, chosen.steps[-1])
    if is_new:
        print(f"Rewrote '{chosen.newest}' as the files of one process.")
    else:
        print(f"'{chosen.newest}' has the files of one process already.")


def _check(folder: Path) -> None:
    """Raise if a path is neither a run's folder nor the folder of one of its checkpoints."""
    is_checkpoint = folder.parent.name == "ckpt" and folder.name.isdecimal()
    check_run(folder.parent.parent if is_checkpoint else folder)


def _add_run(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="RUN",
        type=path,
        help="a run's output folder, or RUN/ckpt/STEP",
    )


def _add_step(parser: Parser) -> None:
    parser.add_argument("--step", type=STEP, metavar="N", help="the newest if left out")
