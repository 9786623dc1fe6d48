"""Commands that look something up: networks, recipes, configuration keys, data sets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from poa_plugin.argument_groups import (
    SIDE,
    WORKERS,
    add_command,
    add_config,
    add_group,
    add_imports,
)
from poa_plugin.arguments import path_text
from poa_plugin.completion import SHELLS
from poa_plugin.sources import overrides_of, recipe_file

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands


def networks_command(subcommands: Commands) -> None:
    """Add `poa networks`."""
    networks = add_command(
        subcommands, "networks", run_networks, "list the sub-networks and their sizes"
    )
    add_config(networks)
    networks.add_argument(
        "--image-size", type=SIDE, metavar="N", help="side in pixels at which FLOPs are counted"
    )


def run_networks(arguments: argparse.Namespace) -> None:
    """Print the sub-networks of a recipe."""
    recipe = recipe_file(arguments.config, "poa networks")

    from poa_plugin.backbones.build import build_backbone
    from poa_plugin.config.load import load_config
    from poa_plugin.device import on_meta
    from poa_plugin.report.tables import space_table

    config = load_config(recipe, overrides_of(arguments, recipe))
    with on_meta():
        space = build_backbone(config).space
    print(space_table(space, arguments.image_size))


def recipes_command(subcommands: Commands) -> None:
    """Add `poa recipes`."""
    recipes = add_command(
        subcommands, "recipes", run_recipes, "list the recipes, or print one of them"
    )
    recipes.add_argument("name", metavar="NAME", nargs="?", help="of a recipe, such as vit")


def run_recipes(arguments: argparse.Namespace) -> None:
    """Print the names of the recipes, or one of them as it stands."""
    from poa_plugin.config.recipes import recipe_path, recipe_table

    if arguments.name:
        print(recipe_path(arguments.name).read_text(encoding="utf-8"), end="")
    else:
        print(recipe_table())


def config_command(subcommands: Commands) -> None:
    """Add `poa config`."""
    config = add_command(
        subcommands,
        "config",
        run_config,
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


def run_config(arguments: argparse.Namespace) -> None:
    """Print the keys of the configuration."""
    from poa_plugin.config.describe import config_text, markdown
    from poa_plugin.registry import import_packages

    import_packages(arguments.imports, "--imports")
    print(markdown() if arguments.markdown else config_text(arguments.key))


def data_command(subcommands: Commands) -> None:
    """Add `poa data`."""
    check = add_command(
        add_group(subcommands, "data", "COMMAND", "look at data sets"),
        "check",
        run_check_data,
        "read every image once and say what cannot be used",
    )
    check.add_argument("path", metavar="PATH", type=path_text, help="as data.path")
    check.add_argument("--dataset", default="image_folder", metavar="NAME", help="as data.dataset")
    check.add_argument(
        "--workers", type=WORKERS, default=0, metavar="N", help="processes that read"
    )
    add_imports(check, "data sets")


def run_check_data(arguments: argparse.Namespace) -> int:
    """Read every image once; return the exit status."""
    import poa_plugin.builtin  # noqa: F401  (registers the data sets)
    from poa_plugin.config.schema import DataConfig
    from poa_plugin.data.check import check_dataset
    from poa_plugin.registry import import_packages

    import_packages(arguments.imports, "--imports")
    checks = check_dataset(arguments.dataset, arguments.path, arguments.workers)
    for check in checks:
        print(check.text(DataConfig.max_bad_ratio))
    return 0 if all(check.is_sound for check in checks) else 1


def completion_command(subcommands: Commands) -> None:
    """Add `poa completion`."""
    completion = add_command(
        subcommands, "completion", run_completion, "print a script for your shell's Tab key"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run_completion(arguments: argparse.Namespace) -> None:
    """Print the script for a shell's Tab key."""
    from poa_plugin.completion import completion_script

    print(completion_script(arguments.main_parser, arguments.shell))
