"""Networks to evaluate: an elastic backbone, its members, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.conditions import architecture_name
from poa_plugin.runs.results import Network, Row
from poa_plugin.runs.run import Run
from poa_plugin.train.checkpoint import weights_checksum


@dataclass(frozen=True)
class Source:
    """Members of a backbone that are evaluated.

    Attributes:
        backbone: with its weights.
        subnets: the members.
        kind, branch, step: of the rows; see `Row`.
        conditions: JSON values on which the features depend beside the images, such as a checksum of the
            weights.
        name: stands in the rows in the place of the member's name, of a single member.
    """

    backbone: ElasticBackbone
    subnets: Sequence[Subnet]
    kind: str = "trained"
    branch: str = ""
    step: int = 0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def row(self, subnet: Subnet) -> Row:
        """Return a member's row, without what a protocol adds."""
        name = self.name or subnet.name
        return Row(
            name, self.kind, self.branch, self.step, "", "", "", 0.0, conditions=self.conditions
        )

    def network(self, subnet: Subnet, image_size: int) -> Network:
        """Return what a member is; its multiply-adds are of an image of this side in pixels."""
        cost = self.backbone.space.cost(subnet, image_size)
        return Network(
            self.name or subnet.name,
            subnet.width,
            subnet.total_depth,
            cost.params,
            cost.flops,
            image_size,
            () if self.name else tuple(self.backbone.space.aliases_of(subnet)),
            is_reference=self.kind == "reference",
        )


def trained_source(run: Run, branch: str) -> Source:
    """Return all members of a branch of a run."""
    backbone = run.backbone(branch)
    return Source(backbone, list(backbone.space), "trained", branch, run.step, _weights(run))


def untrained_source(run: Run, branch: str, subnets: Sequence[Subnet]) -> Source:
    """Return members of a run's backbone as they were before the first step."""
    conditions = {"architecture": architecture_name(run.config), "seed": run.config.train.seed}
    return Source(run.untrained_backbone(), subnets, "untrained", branch, 0, conditions)


def reference_source(run: Run, branch: str) -> Source:
    """Return the intact network of a run that others are compared with, by the run's name."""
    backbone, name = run.backbone(branch), run.folder.resolve().name
    return Source(
        backbone, [backbone.space.intact], "reference", branch, run.step, _weights(run), name
    )


def _weights(run: Run) -> dict[str, Any]:
    return {
        "architecture": architecture_name(run.config),
        "weights": weights_checksum(run.checkpoint),
    }
