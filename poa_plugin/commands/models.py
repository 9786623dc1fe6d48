"""Commands that write networks, and that read those of other code bases."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from poa_plugin.argument_groups import (
    SIDE,
    add_branch,
    add_command,
    add_force,
    add_imports,
    add_run_folder,
)
from poa_plugin.arguments import path
from poa_plugin.errors import UserError
from poa_plugin.sources import check_extracted, check_run, recipe_file
from poa_plugin.targets import (
    check_folder_target,
)

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands


def extract_command(subcommands: Commands) -> None:
    """Add `poa extract`."""
    extract = add_command(
        subcommands,
        "extract",
        run_extract,
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


def run_extract(arguments: argparse.Namespace) -> None:
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


def export_command(subcommands: Commands) -> None:
    """Add `poa export`."""
    export = add_command(
        subcommands,
        "export",
        run_export,
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


def run_export(arguments: argparse.Namespace) -> None:
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


def import_command(subcommands: Commands) -> None:
    """Add `poa import`."""
    import_ = add_command(
        subcommands,
        "import",
        run_import,
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


def run_import(arguments: argparse.Namespace) -> None:
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
