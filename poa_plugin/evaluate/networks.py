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
from poa_plugin.runs.entries import Series
from poa_plugin.runs.run import Run, open_run
from poa_plugin.ssl import trains_elastic_student


def chosen_networks(
    run: Run,
    space: SearchSpace,
    names: Sequence[str] = ("all",),
    widths: Sequence[int] | None = None,
) -> list[Subnet]:
    """Return networks by name, or for `all` those that were trained; say on stderr which were not.

    Args:
        run: an opened run.
        space: its networks.
        names: of networks, or `all`.
        widths: only networks of these; of all if None.

    Raises:
        UserError: a name or width is unknown, or none of the networks was trained.
    """
    trained, is_all = run.trained_networks(), list(names) == ["all"]
    allowed = _checked_widths(space, widths)
    subnets = list(space) if is_all else list(dict.fromkeys(space[name] for name in names))
    subnets = [subnet for subnet in subnets if subnet.width in allowed]
    warning = trained.warning(subnets)
    if is_all:
        subnets = [subnet for subnet in subnets if subnet in trained.subnets]
    if not subnets:
        raise UserError(f"{warning or ''} There is nothing to evaluate.".lstrip())
    if warning:
        print(f"WARNING: {warning}", file=sys.stderr)
    return subnets


def only_trained(folder: Path, series: Series) -> Series:
    """Return a series without networks that were never trained, which former versions evaluated, too.

    Args:
        folder: the run's; without its configuration all are taken to be trained.
        series: of the run.
    """
    file = folder / "config.yaml"
    config = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    if OmegaConf.select(config, "loss.terms") is None or trains_elastic_student(
        cast(Config, config)
    ):
        return series
    run = open_run(folder)
    trained = run.trained_networks()
    subnets = [run.space[entry.network] for entry in series.networks]
    if warning := trained.warning(subnets):
        print(f"WARNING: {warning}", file=sys.stderr)
    names = {subnet.name for subnet in trained.subnets}
    return replace(series, networks=[e for e in series.networks if e.network in names])


def by_width(subnets: Sequence[Subnet]) -> dict[int, list[Subnet]]:
    """Return networks by their widths, in increasing order."""
    members: dict[int, list[Subnet]] = {}
    for subnet in subnets:
        members.setdefault(subnet.width, []).append(subnet)
    return dict(sorted(members.items()))


def _checked_widths(space: SearchSpace, widths: Sequence[int] | None) -> Sequence[int]:
    for width in widths or ():
        if width not in space.widths:
            nearest = min(space.widths, key=lambda member: abs(member - width))
            members = ", ".join(map(str, space.widths))
            raise UserError(
                f"No network has the width {width}: the nearest is {nearest}, and the widths are {members}."
            )
    return space.widths if widths is None else widths
