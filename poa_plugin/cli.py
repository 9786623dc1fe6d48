"""The command line: `poa train`, `networks`, `extract`, `export`, `import`, `eval`, `sweep`, `pick`, ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from poa_plugin import commands
from poa_plugin.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence on stderr and exit status 2."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except UserError as error:
        print(f"poa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("poa: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="poa", description="Pre-train one elastic network; take out models of all sizes."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(
        subcommands, "train", commands.train, "pre-train, or go on where a run stopped"
    )
    _config_arguments(train)

    networks = _command(
        subcommands, "networks", commands.networks, "list the sub-networks and their sizes"
    )
    _config_arguments(networks)
    networks.add_argument(
        "--image-size", type=int, help="side in pixels at which FLOPs are counted"
    )

    extract = _command(
        subcommands, "extract", commands.extract, "write sub-networks as ordinary models"
    )
    extract.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")
    extract.add_argument("--network", required=True, help="small, w384_d12, ..., or all")
    extract.add_argument("--branch", choices=("teacher", "student"), default="teacher")
    extract.add_argument("--to", required=True, type=Path, metavar="FOLDER")
    extract.add_argument(
        "--with-heads", action="store_true", help="the projection heads and the mask token too"
    )

    export = _command(
        subcommands, "export", commands.export, "write an extracted network for other libraries"
    )
    export.add_argument("folder", metavar="FOLDER", type=Path, help="what `poa extract` wrote")
    export.add_argument("--format", required=True, metavar="NAME", help="timm, onnx, hf, ...")
    export.add_argument("--to", required=True, type=Path, metavar="TARGET", help="a new folder")
    export.add_argument("--licence", metavar="ID", help="of the weights, for the model card")
    export.add_argument(
        "--image-size", type=int, metavar="N", help="onnx: for this size in pixels only"
    )
    export.add_argument(
        "--imports", nargs="+", default=[], metavar="PACKAGE", help="that register formats"
    )

    import_ = _command(
        subcommands, "import", commands.import_, "make a run of another code base's checkpoint"
    )
    import_.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="POA's, DINOv2's or timm's; a published run's folder; one rank's file of several",
    )
    import_.add_argument("--to", required=True, type=Path, metavar="RUN", help="the run's folder")
    import_.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="of the file, such as poa or timm; told from names if auto",
    )
    import_.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="CONFIG|key=value",
        help="a recipe or the published run's config.yaml, and words",
    )
    import_.add_argument(
        "--drop",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave out, such as a classifier, head",
    )

    evaluate = subcommands.add_parser("eval", help="evaluate the sub-networks of a run")
    kinds = evaluate.add_subparsers(required=True, metavar="KIND")
    knn = _command(kinds, "knn", commands.knn, "k nearest neighbours on frozen features")
    knn.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")
    knn.add_argument("--network", nargs="+", default=["all"], help="names; all if left out")
    knn.add_argument("--branch", choices=("teacher", "student"), default="teacher")
    knn.add_argument("--k", nargs="+", type=int, default=[10, 20, 100, 200], help="neighbours")
    knn.add_argument("--temperature", type=float, default=0.07, help="of the votes' softmax")
    knn.add_argument("--untrained", action="store_true", help="the networks before training too")
    knn.add_argument("--pixels", action="store_true", help="raw pixels too")
    knn.add_argument(
        "--reference", type=Path, metavar="RUN", help="another run's intact network too"
    )
    _threads(knn)

    sweep = _command(
        subcommands, "sweep", commands.sweep, "evaluate all sub-networks, what they share once"
    )
    sweep.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")
    sweep.add_argument("--eval", choices=("knn",), default="knn", help="how they are evaluated")
    sweep.add_argument("--widths", nargs="+", type=int, help="whose networks; all if left out")
    sweep.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH|key=value",
        help="other images: a path, and data. and evaluation. keys",
    )
    sweep.add_argument("--branch", choices=("teacher", "student"), default="teacher")
    sweep.add_argument("--k", nargs="+", type=int, default=[10, 20, 100, 200], help="neighbours")
    sweep.add_argument("--temperature", type=float, default=0.07, help="of the votes' softmax")
    sweep.add_argument("--memory", default="4G", metavar="SIZE", help="bytes, such as 512M")
    sweep.add_argument("--no-latency", action="store_true", help="do not measure it")
    _threads(sweep)

    pick = _command(
        subcommands, "pick", commands.pick, "say which network of a sweep fits some limits best"
    )
    pick.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")
    pick.add_argument("--max-params", metavar="SIZE", help="such as 30M")
    pick.add_argument("--max-flops", metavar="SIZE", help="multiply-adds of an image, such as 5G")
    pick.add_argument("--max-latency-ms", metavar="MS", help="on the sweep's device, such as 12")
    pick.add_argument("--k", type=int, help="neighbours; 20 or the nearest if left out")
    pick.add_argument("--to", type=Path, metavar="FOLDER", help="write it as an ordinary model")

    data = subcommands.add_parser("data", help="look at data sets")
    check = _command(
        data.add_subparsers(required=True, metavar="WHAT"),
        "check",
        commands.check_data,
        "read every image once and say what cannot be used",
    )
    check.add_argument("path", metavar="PATH", help="as data.path")
    check.add_argument("--dataset", default="image_folder", help="as data.dataset")
    check.add_argument("--workers", type=int, default=0, help="processes that read")

    report = _command(
        subcommands, "report", commands.report, "write a page about a run, or compare several"
    )
    report.add_argument(
        "run_folders", metavar="RUN", type=Path, nargs="+", help="runs' output folders"
    )
    report.add_argument(
        "--to", type=Path, metavar="FOLDER|FILE.html", help="one run needs none: RUN/report"
    )

    demo = _command(
        subcommands, "demo", commands.demo, "train, extract, evaluate and draw in minutes"
    )
    demo.add_argument("config", metavar="CONFIG", help="a recipe on a data set with labels")
    demo.add_argument("--to", type=Path, default=Path("runs/demo"), metavar="FOLDER")
    demo.add_argument(
        "--minutes", type=float, default=8.5, help="of training (POA and DINOv2 at once)"
    )
    return parser


def _command(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: object,
    text: str,
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("words", nargs="*", metavar="key=value", help="laid over the file")


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own choice if left out")


if __name__ == "__main__":
    sys.exit(main())
