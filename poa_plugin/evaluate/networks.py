"""Which networks of a run are evaluated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from poa_plugin.config.schema import Config
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError
from poa_plugin.runs.run import Run, open_run
from poa_plugin.runs.sweep_results import Sweep
from poa_plugin.ssl import trains_elastic_student


def named_networks(run: Run, space: SearchSpace, names: Sequence[str]) -> list[Subnet]:
    """Return networks by name, or for `all` those that were trained; say on stderr which were not.

    Raises:
        UserError: a name is unknown.
    """
    trained, everything = run.trained_networks(), list(names) == ["all"]
    subnets = list(space) if everything else [space[name] for name in names]
    if warning := trained.warning(subnets):
        print(f"WARNING: {warning}", file=sys.stderr)
    return [subnet for subnet in subnets if not everything or subnet in trained.subnets]


def swept_networks(
    run: Run, space: SearchSpace, widths: Sequence[int] | None
) -> dict[int, list[Subnet]]:
    """Return the trained networks of some widths, all if None, by width; say on stderr which are left out.

    Raises:
        UserError: a width is unknown, or none of its networks was trained.
    """
    known, trained = _known_widths(space, widths), run.trained_networks()
    wanted = [subnet for subnet in space if subnet.width in known]
    warning = trained.warning(wanted)
    members = by_width([subnet for subnet in wanted if subnet in trained.subnets])
    if not members:
        raise UserError(f"{warning} There is nothing to evaluate.")
    if warning:
        print(f"WARNING: {warning}", file=sys.stderr)
    return members


def trained_results(folder: Path, sweep: Sweep) -> Sweep:
    """Return a sweep without networks that were never trained, which former versions evaluated, too.

    Args:
        folder: the run's; without its configuration all are taken to be trained.
        sweep: of the run.
    """
    file = folder / "config.yaml"
    config = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    if OmegaConf.select(config, "loss.terms") is None or trains_elastic_student(
        cast(Config, config)
    ):
        return sweep
    run = open_run(folder)
    trained = run.trained_networks()
    subnets = [run.space[own.network] for own in sweep.networks]
    if warning := trained.warning(subnets):
        print(f"WARNING: {warning}", file=sys.stderr)
    names = {subnet.name for subnet in trained.subnets}
    return replace(sweep, networks=[own for own in sweep.networks if own.network in names])


def by_width(subnets: Sequence[Subnet]) -> dict[int, list[Subnet]]:
    """Return networks by their widths, in increasing order."""
    members: dict[int, list[Subnet]] = {}
    for subnet in subnets:
        members.setdefault(subnet.width, []).append(subnet)
    return dict(sorted(members.items()))


def _known_widths(space: SearchSpace, wanted: Sequence[int] | None) -> list[int]:
    """Return the widths to sweep in increasing order, each once."""
    for width in wanted or ():
        if width not in space.widths:
            nearest = min(space.widths, key=lambda known: abs(known - width))
            known = ", ".join(map(str, space.widths))
            raise UserError(
                f"No network has the width {width}: the nearest is {nearest}, and the widths are {known}."
            )
    return space.widths if wanted is None else sorted(set(wanted))
