"""Which networks of a run were trained, and what to say about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.config.schema import Config
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.ssl import trains_elastic_student
from poa_plugin.train import checkpoint

ELASTIC_FORMATS = ("poa",)
"""Formats of `poa import` whose files hold weights that were trained elastically."""


@dataclass(frozen=True)
class TrainedNetworks:
    """The members of a search space that a run's weights were trained as.

    Attributes:
        subnets: in the order of the space.
        reason: why there are others, the beginning of a sentence; None where all were trained.
        doubt: a sentence where it is not known whether the smaller networks were trained.
    """

    subnets: tuple[Subnet, ...]
    reason: str | None = None
    doubt: str | None = None

    def warning(self, subnets: Sequence[Subnet]) -> str | None:
        """Return a sentence about those of some networks that were never trained; None if all were."""
        others = [subnet.name for subnet in subnets if subnet not in self.subnets]
        if others:
            names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            return f"{self.reason}: {names} {'was' if len(others) == 1 else 'were'} never trained."
        intact = max(self.subnets)
        return self.doubt if any(subnet != intact for subnet in subnets) else None


def trained_networks(config: Config, space: SearchSpace, folder: Path) -> TrainedNetworks:
    """Return which networks were trained.

    Args:
        config: the run's; without loss terms of the elastic student (DINOv2 as a configuration) only the
            intact network is trained.
        space: the run's networks; one that is never drawn (multiplicity 0) is not trained either.
        folder: the newest checkpoint's. Weights that were imported are what their file makes them.
    """
    imported = checkpoint.imported_format(folder)
    if imported in ELASTIC_FORMATS:
        return TrainedNetworks(tuple(space))
    if not trains_elastic_student(config):
        return TrainedNetworks(
            (space.intact,),
            f"The run has no elastic student, so that only its intact network, {space.intact.name}, was "
            f"trained",
        )
    doubt = None
    if imported is not None and len(space) > 1:
        doubt = (
            f"The run's weights were imported, and not trained since: unless they had been trained "
            f"elastically, only the intact network, {space.intact.name}, was trained."
        )
    drawn = tuple(
        subnet
        for subnet, times in zip(space, space.multiplicities, strict=True)
        if times > 0 or subnet == space.intact
    )
    return TrainedNetworks(drawn, "Some networks are never drawn in training", doubt)
