"""Commands that evaluate the networks of a run, choose one, and show the results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poa_plugin.argument_groups import (
    NEIGHBORS,
    WIDTH,
    add_branch,
    add_command,
    add_data,
    add_force,
    add_group,
    add_memory,
    add_results,
    add_results_to,
    add_run_folder,
    add_threads,
    add_votes,
)
from poa_plugin.arguments import path
from poa_plugin.errors import UserError
from poa_plugin.sources import RUN_FILES, check_run
from poa_plugin.targets import (
    EVALUATION,
    PLOTS,
    check_entries,
    check_file_target,
    check_folder_target,
    removed_on_failure,
)

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands
    from poa_plugin.runs.results import Results


def eval_command(subcommands: Commands) -> None:
    """Add `poa eval`."""
    kinds = add_group(subcommands, "eval", "KIND", "evaluate the sub-networks of a run")
    knn = add_command(kinds, "knn", run_knn, "k nearest neighbors on frozen features", writes=True)
    add_run_folder(knn)
    knn.add_argument("--network", nargs="+", default=["all"], metavar="NAME", help="names, or all")
    add_branch(knn)
    add_votes(knn)
    knn.add_argument("--untrained", action="store_true", help="the networks before training too")
    knn.add_argument("--pixels", action="store_true", help="raw pixels too")
    knn.add_argument(
        "--reference", type=path, metavar="RUN", help="another run's intact network too"
    )
    add_data(knn)
    add_results_to(knn, "results")
    add_memory(knn)
    add_threads(knn)


def run_knn(arguments: argparse.Namespace) -> None:
    """Evaluate networks of a run with k-NN."""
    for folder in filter(None, (arguments.run_folder, arguments.reference)):
        check_run(folder)
    _results_folder(arguments, EVALUATION)

    from poa_plugin.report.tables import results_table
    from poa_plugin.runs.entries import entries_of
    from poa_plugin.runs.run import open_run

    results = _evaluate(
        arguments,
        networks=arguments.network,
        untrained=arguments.untrained,
        pixels=arguments.pixels,
        reference=open_run(arguments.reference) if arguments.reference else None,
    )
    print(results_table(entries_of(results)))


def sweep_command(subcommands: Commands) -> None:
    """Add `poa sweep`."""
    sweep = add_command(
        subcommands,
        "sweep",
        run_sweep,
        "evaluate all sub-networks, what they share once",
        writes=True,
    )
    add_run_folder(sweep)
    sweep.add_argument("--eval", choices=("knn",), default="knn", help="how they are evaluated")
    sweep.add_argument(
        "--widths", nargs="+", type=WIDTH, metavar="N", help="whose networks; all if left out"
    )
    add_data(sweep)
    add_results_to(sweep, "results and features")
    add_branch(sweep)
    add_votes(sweep)
    add_memory(sweep)
    sweep.add_argument("--no-latency", action="store_true", help="do not measure it")
    add_threads(sweep)


def run_sweep(arguments: argparse.Namespace) -> None:
    """Evaluate all networks of a run."""
    check_run(arguments.run_folder)
    folder = _results_folder(arguments, (*EVALUATION, *PLOTS))

    from poa_plugin.report.sweep_plots import plot_sweep
    from poa_plugin.report.tables import sweep_table
    from poa_plugin.runs.entries import series_of

    results = _evaluate(
        arguments,
        widths=arguments.widths,
        protocol=arguments.eval,
        latency=not arguments.no_latency,
        is_sweep=True,
    )
    swept = series_of(results)
    plots = plot_sweep(swept, folder)
    print(sweep_table(swept))
    written = (*(folder / name for name in EVALUATION), *plots)
    print(f"All of them: {', '.join(map(str, written))}")


def pick_command(subcommands: Commands) -> None:
    """Add `poa pick`."""
    pick = add_command(
        subcommands, "pick", run_pick, "say which network of a sweep fits some limits best"
    )
    add_run_folder(pick)
    pick.add_argument("--max-params", metavar="SIZE", help="such as 30M")
    pick.add_argument("--max-flops", metavar="SIZE", help="multiply-adds of an image, such as 5G")
    pick.add_argument("--max-latency-ms", metavar="MS", help="on the sweep's device, such as 12")
    pick.add_argument(
        "--k", type=NEIGHBORS, metavar="N", help="neighbors; 20 or the nearest if left out"
    )
    pick.add_argument("--to", type=path, metavar="FOLDER", help="write it as an ordinary model")
    add_results(pick, "'poa sweep --to'")
    add_force(pick)


def run_pick(arguments: argparse.Namespace) -> None:
    """Print, and write, the network to take."""
    check_run(arguments.run_folder, RUN_FILES)
    if arguments.to:
        check_folder_target(arguments.to, "--to")

    from poa_plugin.pick.choice import Limits, pick, series_to_pick_from, write_picked
    from poa_plugin.pick.explanation import explain

    limits = Limits.parse(arguments.max_params, arguments.max_flops, arguments.max_latency_ms)
    series = series_to_pick_from(arguments.run_folder, arguments.results)
    network = pick(series, limits, arguments.k)
    print(explain(series, limits, network, arguments.k))
    if arguments.to:
        write_picked(
            arguments.run_folder, series, network, arguments.to, arguments.force, arguments.results
        )
        print(f"Wrote it to '{arguments.to}'.")


def report_command(subcommands: Commands) -> None:
    """Add `poa report`."""
    report = add_command(
        subcommands,
        "report",
        run_report,
        "write a page about a run, or compare several",
        writes=True,
    )
    report.add_argument(
        "run_folders", metavar="RUN", type=path, nargs="+", help="runs' output folders"
    )
    report.add_argument(
        "--to", type=path, metavar="FOLDER|FILE.html", help="one run needs none: RUN/report"
    )
    add_results(report, "'poa eval knn --to' and 'poa sweep --to' (of one run)")


def run_report(arguments: argparse.Namespace) -> None:
    """Write a page about runs."""
    for folder in arguments.run_folders:
        check_run(folder, RUN_FILES)
    if arguments.results and len(arguments.run_folders) > 1:
        raise UserError("--results is of one run: leave it out to compare several.")
    to = arguments.to or arguments.run_folders[0] / "report"
    _check_page_target(to)

    from poa_plugin.report.write import write_report

    with removed_on_failure(to) if _is_page(to) else nullcontext():
        page = write_report(*arguments.run_folders, to=arguments.to, results=arguments.results)
    print(page)


def _evaluate(arguments: argparse.Namespace, **options: Any) -> Results:
    """Evaluate networks of a run as the arguments that `poa eval` and `poa sweep` share say."""
    from poa_plugin.device import use_threads
    from poa_plugin.evaluate.run import EvaluationOptions, evaluate_run
    from poa_plugin.evaluate.splits import with_data
    from poa_plugin.runs.run import open_run
    from poa_plugin.sizes import parse_bytes

    use_threads(arguments.threads)
    shared = EvaluationOptions(
        branch=arguments.branch,
        settings={"ks": arguments.k, "temperature": arguments.temperature},
        memory=parse_bytes(arguments.memory, "--memory"),
        own_data=not arguments.data,
        to=arguments.to,
    )
    run = with_data(open_run(arguments.run_folder), arguments.data)
    return evaluate_run(run, replace(shared, **options))


def _results_folder(arguments: argparse.Namespace, names: Sequence[str]) -> Path:
    """Return where results go, which can be written."""
    folder: Path = arguments.to or arguments.run_folder / "eval"
    if arguments.to:
        check_entries(folder, "--to", names)
        return folder
    try:
        check_entries(folder, "The folder for results", names)
    except UserError as error:
        raise UserError(f"{error} Another one is named with --to.") from error
    return folder


def _check_page_target(to: Path) -> None:
    """Raise if a report could not be written; what is neither a page nor a folder it refuses itself."""
    if _is_page(to):
        check_file_target(to, "--to")
    elif not os.path.isfile(to):  # noqa: PTH113 (false for names that are too long)
        check_entries(to, "--to", ["index.html"])


def _is_page(to: Path) -> bool:
    """Return whether a report goes to a file, and not into a folder."""
    return to.suffix.lower() in (".html", ".htm") and not os.path.isdir(to)  # noqa: PTH112
