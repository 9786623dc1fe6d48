"""The arguments of each command of `poa`: one function a command, in the order of `poa --help`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from poa_plugin import commands
from poa_plugin.argument_groups import (
    MINUTES,
    NEIGHBORS,
    RANKS,
    SIDE,
    UTILIZATION,
    WIDTH,
    WORKERS,
    add_branch,
    add_command,
    add_config,
    add_data,
    add_force,
    add_group,
    add_imports,
    add_memory,
    add_results,
    add_results_to,
    add_run_folder,
    add_threads,
    add_votes,
)
from poa_plugin.arguments import path, path_text
from poa_plugin.checkpoint_command import add_checkpoint
from poa_plugin.completion import SHELLS

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands


def train(subcommands: Commands) -> None:
    """Add `poa train`."""
    train = add_command(
        subcommands,
        "train",
        commands.train,
        "pre-train, or resume where a run stopped",
        writes=True,
    )
    add_config(train)


def plan(subcommands: Commands) -> None:
    """Add `poa plan`."""
    plan = add_command(
        subcommands, "plan", commands.plan, "say what a recipe takes, and whether it fits a device"
    )
    add_config(plan)
    plan.add_argument("--device", metavar="NAME", help="a GPU, such as a100-80g")
    plan.add_argument(
        "--memory", metavar="SIZE", help="of a device, such as 80G; this machine's if left out"
    )
    plan.add_argument(
        "--ranks", type=RANKS, default=1, metavar="N", help="processes with a device each"
    )
    plan.add_argument("--peak", metavar="FLOPS", help="a device's FLOP/s, such as 312T")
    plan.add_argument(
        "--utilization", type=UTILIZATION, default=0.4, metavar="U", help="of its peak"
    )
    plan.add_argument("--measure", action="store_true", help="time a few steps on this machine")
    plan.add_argument("--json", action="store_true", help="for programs")


def networks(subcommands: Commands) -> None:
    """Add `poa networks`."""
    networks = add_command(
        subcommands, "networks", commands.networks, "list the sub-networks and their sizes"
    )
    add_config(networks)
    networks.add_argument(
        "--image-size", type=SIDE, metavar="N", help="side in pixels at which FLOPs are counted"
    )


def recipes(subcommands: Commands) -> None:
    """Add `poa recipes`."""
    recipes = add_command(
        subcommands, "recipes", commands.recipes, "list the recipes, or print one of them"
    )
    recipes.add_argument("name", metavar="NAME", nargs="?", help="of a recipe, such as vit")


def config(subcommands: Commands) -> None:
    """Add `poa config`."""
    config = add_command(
        subcommands,
        "config",
        commands.config,
        "print configuration keys, their defaults and ranges",
    )
    config.add_argument(
        "key",
        metavar="KEY",
        nargs="?",
        help="a key, a section, or a part of a name; all if left out",
    )
    config.add_argument("--markdown", action="store_true", help="as docs/configuration.md")
    add_imports(config, "backbones")


def extract(subcommands: Commands) -> None:
    """Add `poa extract`."""
    extract = add_command(
        subcommands,
        "extract",
        commands.extract,
        "write sub-networks as ordinary models",
        writes=True,
    )
    add_run_folder(extract)
    extract.add_argument(
        "--network", required=True, metavar="NAME", help="small, w384_d12, ..., or all"
    )
    add_branch(extract)
    extract.add_argument(
        "--to", required=True, type=path, metavar="FOLDER", help="of all: a folder each in it"
    )
    extract.add_argument(
        "--with-heads", action="store_true", help="the projection heads and the mask token too"
    )
    add_force(extract)


def export(subcommands: Commands) -> None:
    """Add `poa export`."""
    export = add_command(
        subcommands,
        "export",
        commands.export,
        "write an extracted network for other libraries",
        writes=True,
    )
    export.add_argument("folder", metavar="FOLDER", type=path, help="what `poa extract` wrote")
    export.add_argument("--format", required=True, metavar="NAME", help="timm, onnx, hf, ...")
    export.add_argument("--to", required=True, type=path, metavar="TARGET", help="a new folder")
    export.add_argument(
        "--license", "--licence", metavar="ID", help="of the weights, for the model card"
    )
    export.add_argument(
        "--image-size", type=SIDE, metavar="N", help="onnx: for this size in pixels only"
    )
    add_imports(export, "formats")


def import_(subcommands: Commands) -> None:
    """Add `poa import`."""
    import_ = add_command(
        subcommands,
        "import",
        commands.import_,
        "make a run of another code base's checkpoint",
        writes=True,
    )
    import_.add_argument(
        "file",
        metavar="FILE",
        type=path,
        help="POA's, DINOv2's or timm's; a published run's folder; one rank's file of several",
    )
    import_.add_argument("--to", required=True, type=path, metavar="RUN", help="the run's folder")
    import_.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="of the file, such as poa or timm; inferred from names if auto",
    )
    import_.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="CONFIG|key=value",
        help="a recipe's name, a YAML file or the published run's config.yaml, and overrides",
    )
    import_.add_argument(
        "--drop",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave out, such as a classifier, head",
    )


def eval_(subcommands: Commands) -> None:
    """Add `poa eval`."""
    kinds = add_group(subcommands, "eval", "KIND", "evaluate the sub-networks of a run")
    knn = add_command(
        kinds, "knn", commands.knn, "k nearest neighbors on frozen features", writes=True
    )
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


def sweep(subcommands: Commands) -> None:
    """Add `poa sweep`."""
    sweep = add_command(
        subcommands,
        "sweep",
        commands.sweep,
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


def pick(subcommands: Commands) -> None:
    """Add `poa pick`."""
    pick = add_command(
        subcommands, "pick", commands.pick, "say which network of a sweep fits some limits best"
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


def data(subcommands: Commands) -> None:
    """Add `poa data`."""
    check = add_command(
        add_group(subcommands, "data", "COMMAND", "look at data sets"),
        "check",
        commands.check_data,
        "read every image once and say what cannot be used",
    )
    check.add_argument("path", metavar="PATH", type=path_text, help="as data.path")
    check.add_argument("--dataset", default="image_folder", metavar="NAME", help="as data.dataset")
    check.add_argument(
        "--workers", type=WORKERS, default=0, metavar="N", help="processes that read"
    )


def report(subcommands: Commands) -> None:
    """Add `poa report`."""
    report = add_command(
        subcommands,
        "report",
        commands.report,
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


def demo(subcommands: Commands) -> None:
    """Add `poa demo`."""
    demo = add_command(
        subcommands,
        "demo",
        commands.demo,
        "train, extract, evaluate and draw in minutes",
        writes=True,
    )
    demo.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        default="demo_vit",
        type=path_text,
        help="a recipe on a data set with labels",
    )
    demo.add_argument(
        "--to", type=path, default=Path("runs/demo"), metavar="FOLDER", help="for all outputs"
    )
    demo.add_argument(
        "--minutes",
        type=MINUTES,
        default=8.5,
        metavar="M",
        help="of training (POA and DINOv2 at once)",
    )


def completion(subcommands: Commands) -> None:
    """Add `poa completion`."""
    completion = add_command(
        subcommands, "completion", commands.completion, "print a script for your shell's Tab key"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


IN_ORDER = (
    train,
    plan,
    networks,
    recipes,
    config,
    extract,
    export,
    import_,
    eval_,
    sweep,
    pick,
    add_checkpoint,
    data,
    report,
    demo,
    completion,
)
"""In the order of the help."""
