"""What the commands of `poa` do with their arguments; each imports what it needs, so that help is quick."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poa_plugin.errors import UserError
from poa_plugin.sources import (
    RUN_FILES,
    check_extracted,
    check_run,
    recipe_file,
)
from poa_plugin.targets import (
    EVALUATION,
    PLOTS,
    TRAINING,
    check_entries,
    check_file_target,
    check_folder_target,
    removed_on_failure,
)

if TYPE_CHECKING:
    from poa_plugin.runs.results import Results


def train(arguments: argparse.Namespace) -> int:
    """Train, or resume; return the exit status."""
    recipe = recipe_file(arguments.config, "poa train")

    from poa_plugin.config.load import load_config
    from poa_plugin.train.loop import train

    config = load_config(recipe, _overrides(arguments, recipe))
    check_entries(Path(config.output_dir), "output_dir", TRAINING)
    outcome = train(config)
    return 0 if outcome.signal is None else 128 + outcome.signal


def plan(arguments: argparse.Namespace) -> int:
    """Print what a recipe takes; return the exit status, 1 if it does not fit."""
    recipe = recipe_file(arguments.config, "poa plan")

    from poa_plugin.config.load import load_config
    from poa_plugin.plan.devices import device_to_plan
    from poa_plugin.plan.plan import make_plan
    from poa_plugin.sizes import parse_bytes, parse_size

    config = load_config(recipe, _overrides(arguments, recipe))
    memory = parse_bytes(arguments.memory, "--memory") if arguments.memory else None
    plan = make_plan(
        config,
        device_to_plan(config, arguments.device, memory),
        ranks=arguments.ranks,
        peak=parse_size(arguments.peak, "--peak") if arguments.peak else None,
        utilization=arguments.utilization,
        measured=arguments.measure,
    )
    print(plan.json() if arguments.json else plan.text())
    return 0 if plan.fits else 1


def networks(arguments: argparse.Namespace) -> None:
    """Print the sub-networks of a recipe."""
    recipe = recipe_file(arguments.config, "poa networks")

    from poa_plugin.backbones.build import build_backbone
    from poa_plugin.config.load import load_config
    from poa_plugin.device import on_meta
    from poa_plugin.report.tables import space_table

    config = load_config(recipe, _overrides(arguments, recipe))
    with on_meta():
        space = build_backbone(config).space
    print(space_table(space, arguments.image_size))


def recipes(arguments: argparse.Namespace) -> None:
    """Print the names of the recipes, or one of them as it stands."""
    from poa_plugin.config.recipes import recipe_path, recipe_table

    if arguments.name:
        print(recipe_path(arguments.name).read_text(encoding="utf-8"), end="")
    else:
        print(recipe_table())


def config(arguments: argparse.Namespace) -> None:
    """Print the keys of the configuration."""
    from poa_plugin.config.describe import config_text, markdown
    from poa_plugin.registry import import_packages

    import_packages(arguments.imports, "--imports")
    print(markdown() if arguments.markdown else config_text(arguments.key))


def extract(arguments: argparse.Namespace) -> None:
    """Write sub-networks of a run."""
    check_run(arguments.run_folder)
    check_folder_target(arguments.to, "--to")

    from poa_plugin.extraction.write import write_all_networks, write_networks
    from poa_plugin.runs.run import open_run

    run = open_run(arguments.run_folder)
    options = (arguments.branch, arguments.with_heads, arguments.force)
    if arguments.network == "all":
        folders = write_all_networks(run, arguments.to, *options)
    else:
        folders = write_networks(run, {arguments.to: run.space[arguments.network]}, *options)
    print(f"Wrote {len(folders)} network{'s' * (len(folders) > 1)} to '{arguments.to}'.")


def export(arguments: argparse.Namespace) -> None:
    """Write an extracted network for another library."""
    check_extracted(arguments.folder)
    check_folder_target(arguments.to, "--to")

    import poa_plugin.builtin  # noqa: F401  (registers the formats)
    from poa_plugin.export.exporter import export
    from poa_plugin.registry import import_packages

    import_packages(arguments.imports, "--imports")
    lines = export(
        arguments.folder,
        arguments.format,
        arguments.to,
        license=arguments.license,
        image_size=arguments.image_size,
    )
    print("\n".join(lines))


def import_(arguments: argparse.Namespace) -> None:
    """Make a run of another code base's checkpoint."""
    check_folder_target(arguments.to, "--to")

    from poa_plugin.config.values import is_override
    from poa_plugin.interop import import_checkpoint

    paths = [word for word in arguments.config if not is_override(word)]
    if len(paths) > 1:
        raise UserError(f"--config takes one recipe, not {len(paths)}: {', '.join(paths)}.")
    imported = import_checkpoint(
        arguments.file,
        arguments.to,
        config=recipe_file(paths[0], "poa import") if paths else None,
        overrides=[word for word in arguments.config if is_override(word)],
        format_name=arguments.format,
        drop=arguments.drop,
    )
    print("\n".join(imported.messages))
    print(f"Wrote '{imported.run}', which stands at step {imported.step}.")


def knn(arguments: argparse.Namespace) -> None:
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


def sweep(arguments: argparse.Namespace) -> None:
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


def pick(arguments: argparse.Namespace) -> None:
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


def check_data(arguments: argparse.Namespace) -> int:
    """Read every image once; return the exit status."""
    import poa_plugin.builtin  # noqa: F401  (registers the data sets)
    from poa_plugin.config.schema import DataConfig
    from poa_plugin.data.check import check_dataset

    checks = check_dataset(arguments.dataset, arguments.path, arguments.workers)
    for check in checks:
        print(check.text(DataConfig.max_bad_ratio))
    return 0 if all(check.is_sound for check in checks) else 1


def report(arguments: argparse.Namespace) -> None:
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


def demo(arguments: argparse.Namespace) -> int:
    """Train, extract, evaluate and draw; return the exit status."""
    recipe = recipe_file(arguments.config, "poa demo")
    check_folder_target(arguments.to, "--to")

    from poa_plugin.demo import demo

    return 0 if demo(str(recipe), arguments.to, arguments.minutes) else 1


def completion(arguments: argparse.Namespace) -> None:
    """Print the script for a shell's Tab key."""
    from poa_plugin.completion import completion_script

    print(completion_script(arguments.main_parser, arguments.shell))


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


def _overrides(arguments: argparse.Namespace, recipe: Path) -> list[str]:
    """Return the `key=value` overrides; a run whose `config.yaml` is the recipe resumes where that lies."""
    from poa_plugin.config.recipes import is_run_recipe
    from poa_plugin.config.values import path_override

    folder = recipe.parent
    is_run = os.path.isdir(arguments.config) or is_run_recipe(recipe)  # noqa: PTH112
    return (
        [path_override("output_dir", folder), *arguments.overrides]
        if is_run
        else arguments.overrides
    )


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
