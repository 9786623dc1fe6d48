"""Commands that train, and that say what training takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from poa_plugin.argument_groups import (
    MINUTES,
    RANKS,
    UTILIZATION,
    add_command,
    add_config,
)
from poa_plugin.arguments import path, path_text
from poa_plugin.sources import overrides_of, recipe_file
from poa_plugin.targets import (
    TRAINING,
    check_entries,
    check_folder_target,
)

if TYPE_CHECKING:
    from poa_plugin.argument_groups import Commands


def train_command(subcommands: Commands) -> None:
    """Add `poa train`."""
    train = add_command(
        subcommands,
        "train",
        run_train,
        "pre-train, or resume where a run stopped",
        writes=True,
    )
    add_config(train)


def run_train(arguments: argparse.Namespace) -> int:
    """Train, or resume; return the exit status."""
    recipe = recipe_file(arguments.config, "poa train")

    from poa_plugin.config.load import load_config
    from poa_plugin.train.loop import train

    config = load_config(recipe, overrides_of(arguments, recipe))
    check_entries(Path(config.output_dir), "output_dir", TRAINING)
    outcome = train(config)
    return 0 if outcome.signal is None else 128 + outcome.signal


def plan_command(subcommands: Commands) -> None:
    """Add `poa plan`."""
    plan = add_command(
        subcommands, "plan", run_plan, "say what a recipe takes, and whether it fits a device"
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


def run_plan(arguments: argparse.Namespace) -> int:
    """Print what a recipe takes; return the exit status, 1 if it does not fit."""
    recipe = recipe_file(arguments.config, "poa plan")

    from poa_plugin.config.load import load_config
    from poa_plugin.plan.devices import device_to_plan
    from poa_plugin.plan.plan import make_plan
    from poa_plugin.sizes import parse_bytes, parse_size

    config = load_config(recipe, overrides_of(arguments, recipe))
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


def demo_command(subcommands: Commands) -> None:
    """Add `poa demo`."""
    demo = add_command(
        subcommands,
        "demo",
        run_demo,
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


def run_demo(arguments: argparse.Namespace) -> int:
    """Train, extract, evaluate and draw; return the exit status."""
    recipe = recipe_file(arguments.config, "poa demo")
    check_folder_target(arguments.to, "--to")

    from poa_plugin.demo import demo

    return 0 if demo(str(recipe), arguments.to, arguments.minutes) else 1
