"""The command line: `poa train`, `networks`, `extract`, `export`, `import`, `eval`, `sweep`, `pick`, ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poa_plugin import commands
from poa_plugin.arguments import KEY_VALUE, Parser, Real, Whole, path, path_text
from poa_plugin.completion import SHELLS
from poa_plugin.console import guarded_console
from poa_plugin.examples import epilog
from poa_plugin.failures import say

SIDE, WIDTH, NEIGHBOURS = Whole(1, 8192), Whole(1, 65536), Whole(1, 1_000_000)
THREADS, WORKERS = Whole(1, 1024), Whole(0, 256)
TEMPERATURE, MINUTES = Real(1e-4, 1e4), Real(0.01, 1e5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence on stderr and exit status 2.

    An output that cannot be written ends no work. `POA_DEBUG=1` or `--debug` shows tracebacks, too.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with guarded_console() as console:
        is_result = True
        try:
            arguments = build_parser().parse_args(words)
            is_result = not (arguments.writes or getattr(arguments, "to", None))
            status = int(arguments.run(arguments) or 0)
        except SystemExit as end:  # argparse has printed the help or the version
            code = end.code if isinstance(end.code, int) else 0
            raise SystemExit(console.exit_status(code, is_result)) from None
        except BaseException as error:
            status = say(error, words)
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

    train = _command(
        subcommands,
        "train",
        commands.train,
        "pre-train, or go on where a run stopped",
        writes=True,
    )
    _config_arguments(train)

    networks = _command(
        subcommands, "networks", commands.networks, "list the sub-networks and their sizes"
    )
    _config_arguments(networks)
    networks.add_argument(
        "--image-size", type=SIDE, metavar="N", help="side in pixels at which FLOPs are counted"
    )

    config = _command(
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
    config.add_argument(
        "--imports", nargs="+", default=[], metavar="PACKAGE", help="that register backbones"
    )

    extract = _command(
        subcommands,
        "extract",
        commands.extract,
        "write sub-networks as ordinary models",
        writes=True,
    )
    _run_folder(extract)
    extract.add_argument(
        "--network", required=True, metavar="NAME", help="small, w384_d12, ..., or all"
    )
    _branch(extract)
    extract.add_argument(
        "--to", required=True, type=path, metavar="FOLDER", help="of all: a folder each in it"
    )
    extract.add_argument(
        "--with-heads", action="store_true", help="the projection heads and the mask token too"
    )
    _force(extract)

    export = _command(
        subcommands,
        "export",
        commands.export,
        "write an extracted network for other libraries",
        writes=True,
    )
    export.add_argument("folder", metavar="FOLDER", type=path, help="what `poa extract` wrote")
    export.add_argument("--format", required=True, metavar="NAME", help="timm, onnx, hf, ...")
    export.add_argument("--to", required=True, type=path, metavar="TARGET", help="a new folder")
    export.add_argument("--licence", metavar="ID", help="of the weights, for the model card")
    export.add_argument(
        "--image-size", type=SIDE, metavar="N", help="onnx: for this size in pixels only"
    )
    export.add_argument(
        "--imports", nargs="+", default=[], metavar="PACKAGE", help="that register formats"
    )

    import_ = _command(
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

    kinds = _group(subcommands, "eval", "KIND", "evaluate the sub-networks of a run")
    knn = _command(
        kinds, "knn", commands.knn, "k nearest neighbours on frozen features", writes=True
    )
    _run_folder(knn)
    knn.add_argument("--network", nargs="+", default=["all"], metavar="NAME", help="names, or all")
    _branch(knn)
    knn.add_argument(
        "--k",
        nargs="+",
        type=NEIGHBOURS,
        help="neighbors; those of 10, 20, 100 and 200 that fit if left out",
    )
    knn.add_argument("--temperature", type=TEMPERATURE, default=0.07, help="of the votes' softmax")
    knn.add_argument("--untrained", action="store_true", help="the networks before training too")
    knn.add_argument("--pixels", action="store_true", help="raw pixels too")
    knn.add_argument(
        "--reference", type=path, metavar="RUN", help="another run's intact network too"
    )
    _data(knn)
    knn.add_argument("--memory", default="4G", metavar="SIZE", help="bytes, such as 512M")
    _threads(knn)

    sweep = _command(
        subcommands,
        "sweep",
        commands.sweep,
        "evaluate all sub-networks, what they share once",
        writes=True,
    )
    _run_folder(sweep)
    sweep.add_argument("--eval", choices=("knn",), default="knn", help="how they are evaluated")
    sweep.add_argument(
        "--widths", nargs="+", type=WIDTH, metavar="N", help="whose networks; all if left out"
    )
    _data(sweep)
    _branch(sweep)
    sweep.add_argument(
        "--k",
        nargs="+",
        type=NEIGHBOURS,
        help="neighbors; those of 10, 20, 100 and 200 that fit if left out",
    )
    sweep.add_argument(
        "--temperature", type=TEMPERATURE, default=0.07, help="of the votes' softmax"
    )
    sweep.add_argument("--memory", default="4G", metavar="SIZE", help="bytes, such as 512M")
    sweep.add_argument("--no-latency", action="store_true", help="do not measure it")
    _threads(sweep)

    pick = _command(
        subcommands, "pick", commands.pick, "say which network of a sweep fits some limits best"
    )
    _run_folder(pick)
    pick.add_argument("--max-params", metavar="SIZE", help="such as 30M")
    pick.add_argument("--max-flops", metavar="SIZE", help="multiply-adds of an image, such as 5G")
    pick.add_argument("--max-latency-ms", metavar="MS", help="on the sweep's device, such as 12")
    pick.add_argument(
        "--k", type=NEIGHBOURS, metavar="N", help="neighbours; 20 or the nearest if left out"
    )
    pick.add_argument("--to", type=path, metavar="FOLDER", help="write it as an ordinary model")
    _force(pick)

    check = _command(
        _group(subcommands, "data", "COMMAND", "look at data sets"),
        "check",
        commands.check_data,
        "read every image once and say what cannot be used",
    )
    check.add_argument("path", metavar="PATH", type=path_text, help="as data.path")
    check.add_argument("--dataset", default="image_folder", metavar="NAME", help="as data.dataset")
    check.add_argument(
        "--workers", type=WORKERS, default=0, metavar="N", help="processes that read"
    )

    report = _command(
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

    demo = _command(
        subcommands,
        "demo",
        commands.demo,
        "train, extract, evaluate and draw in minutes",
        writes=True,
    )
    demo.add_argument(
        "config", metavar="CONFIG", type=path_text, help="a recipe on a data set with labels"
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

    completion = _command(
        subcommands, "completion", commands.completion, "print a script for your shell's Tab key"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def _command(
    subcommands: argparse._SubParsersAction[Parser],
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


def _group(
    subcommands: argparse._SubParsersAction[Parser], name: str, metavar: str, text: str
) -> argparse._SubParsersAction[Parser]:
    """Add a command that has sub-commands; return where they are added."""
    prog = f"{subcommands._prog_prefix} {name}"
    description = f"{text[0].upper()}{text[1:]}."
    parser = subcommands.add_parser(name, help=text, description=description, epilog=epilog(prog))
    return parser.add_subparsers(required=True, metavar=metavar)


def _config_arguments(parser: Parser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", type=path_text, help="a YAML file, or the folder of a run"
    )
    parser.add_argument(
        "words", nargs="*", default=[], metavar=KEY_VALUE, help="laid over the file"
    )


def _run_folder(parser: Parser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=path, help="a run's output folder")


def _branch(parser: Parser) -> None:
    parser.add_argument(
        "--branch",
        choices=("teacher", "student"),
        default="teacher",
        help="which of the two networks that are trained",
    )


def _threads(parser: Parser) -> None:
    parser.add_argument(
        "--threads", type=THREADS, metavar="N", help="of the CPU; torch's own choice if left out"
    )


def _data(parser: Parser) -> None:
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH|key=value",
        help="other images: a path, and data. and evaluation. keys",
    )


def _force(parser: Parser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="replace what was extracted there, and nothing else"
    )


class _Version(argparse.Action):
    """Prints the version, which takes some milliseconds to find out and is not for every start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from importlib.metadata import version

        print(f"poa {version('poa-plugin')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
