"""The command line: `poa train`, `networks`, `extract`, `import`, `eval`, `report`, `demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(commands, "train", _train, "pre-train, or go on where a run stopped")
    _config_arguments(train)

    networks = _command(commands, "networks", _networks, "list the sub-networks and their sizes")
    _config_arguments(networks)
    networks.add_argument(
        "--image-size", type=int, help="side in pixels at which FLOPs are counted"
    )

    extract = _command(commands, "extract", _extract, "write sub-networks as ordinary models")
    extract.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")
    extract.add_argument("--network", required=True, help="small, w384_d12, ..., or all")
    extract.add_argument("--branch", choices=("teacher", "student"), default="teacher")
    extract.add_argument("--to", required=True, type=Path, metavar="FOLDER")
    extract.add_argument(
        "--with-heads", action="store_true", help="the projection heads and the mask token too"
    )

    import_ = _command(commands, "import", _import, "make a run of another code base's checkpoint")
    import_.add_argument("file", metavar="FILE", type=Path, help="POA's, DINOv2's or timm's")
    import_.add_argument("--to", required=True, type=Path, metavar="RUN", help="the run's folder")
    import_.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="of the file, such as poa or timm; told from names if auto",
    )
    import_.add_argument(
        "--config", nargs="+", default=[], metavar="CONFIG|key=value", help="a recipe, and words"
    )
    import_.add_argument(
        "--drop",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave out, such as a classifier, head",
    )

    evaluate = commands.add_parser("eval", help="evaluate the sub-networks of a run")
    kinds = evaluate.add_subparsers(required=True, metavar="KIND")
    knn = _command(kinds, "knn", _knn, "k nearest neighbours on frozen features")
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

    data = commands.add_parser("data", help="look at data sets")
    check = _command(
        data.add_subparsers(required=True, metavar="WHAT"),
        "check",
        _check_data,
        "read every image once and say what cannot be used",
    )
    check.add_argument("path", metavar="PATH", help="as data.path")
    check.add_argument("--dataset", default="image_folder", help="as data.dataset")
    check.add_argument("--workers", type=int, default=0, help="processes that read")

    report = _command(commands, "report", _report, "write plots and a page about a run")
    report.add_argument("run_folder", metavar="RUN", type=Path, help="a run's output folder")

    demo = _command(commands, "demo", _demo, "train, extract, evaluate and draw in minutes")
    demo.add_argument("config", metavar="CONFIG", help="a recipe on a data set with labels")
    demo.add_argument("--to", type=Path, default=Path("runs/demo"), metavar="FOLDER")
    demo.add_argument(
        "--minutes", type=float, default=8.5, help="of training (POA and DINOv2 at once)"
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: object,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("words", nargs="*", metavar="key=value", help="laid over the file")


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own choice if left out")


def _train(arguments: argparse.Namespace) -> int:
    from poa_plugin.config import load_config
    from poa_plugin.train.loop import train

    outcome = train(load_config(arguments.config, arguments.words))
    return 0 if outcome.signal is None else 128 + outcome.signal


def _networks(arguments: argparse.Namespace) -> None:
    import torch

    from poa_plugin.config import load_config
    from poa_plugin.evaluate import network_table
    from poa_plugin.ssl import build_backbone

    config = load_config(arguments.config, arguments.words)
    with torch.device("meta"):
        space = build_backbone(config).space
    print(network_table(space, arguments.image_size))


def _extract(arguments: argparse.Namespace) -> None:
    from poa_plugin.extract import open_run

    run = open_run(arguments.run_folder)
    space = run.space
    if arguments.network == "all":
        wanted = {arguments.to / subnet.name: subnet for subnet in space}
    else:
        wanted = {arguments.to: space[arguments.network]}
    folders = run.write(wanted, arguments.branch, arguments.with_heads)
    print(f"Wrote {len(folders)} network{'s' * (len(folders) > 1)} to '{arguments.to}'.")


def _import(arguments: argparse.Namespace) -> None:
    from poa_plugin.interop import import_checkpoint

    paths = [word for word in arguments.config if "=" not in word]
    if len(paths) > 1:
        raise UserError(f"--config takes one recipe, not {len(paths)}: {', '.join(paths)}.")
    imported = import_checkpoint(
        arguments.file,
        arguments.to,
        config=paths[0] if paths else None,
        words=[word for word in arguments.config if "=" in word],
        format_name=arguments.format,
        drop=arguments.drop,
    )
    print("\n".join(imported.lines))
    print(f"Wrote '{imported.run}', which stands at step {imported.step}.")


def _knn(arguments: argparse.Namespace) -> None:
    import torch

    from poa_plugin.evaluate import results_table
    from poa_plugin.evaluate.run import evaluate_knn
    from poa_plugin.extract import open_run

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = evaluate_knn(
        open_run(arguments.run_folder),
        names=arguments.network,
        branch=arguments.branch,
        ks=arguments.k,
        temperature=arguments.temperature,
        untrained=arguments.untrained,
        pixels=arguments.pixels,
        reference=open_run(arguments.reference) if arguments.reference else None,
    )
    print(results_table(rows))


def _check_data(arguments: argparse.Namespace) -> int:
    import poa_plugin.builtin  # noqa: F401  (registers the data sets)
    from poa_plugin.config import DataConfig
    from poa_plugin.data.check import check_dataset

    checks = check_dataset(arguments.dataset, arguments.path, arguments.workers)
    for check in checks:
        print(check.text(DataConfig.max_bad_share))
    return 1 if any(check.n_bad for check in checks) else 0


def _report(arguments: argparse.Namespace) -> None:
    from poa_plugin.evaluate import write_report

    print(write_report(arguments.run_folder))


def _demo(arguments: argparse.Namespace) -> int:
    from poa_plugin.demo import demo

    return 0 if demo(arguments.config, arguments.to, arguments.minutes) else 1


if __name__ == "__main__":
    sys.exit(main())
