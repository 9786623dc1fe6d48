"""Latencies of a backbone's networks, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.conditions import device_conditions
from poa_plugin.evaluate.latency import Latency, latencies
from poa_plugin.evaluate.networks import by_width
from poa_plugin.evaluate.source import Source
from poa_plugin.evaluate.tree import deepest_network
from poa_plugin.runs.results import Results, Row, by_key

METRICS = {"latency_ms": "milliseconds", "latency_spread_ms": "spread"}


def latency_rows(source: Source, image: Tensor, by: str) -> dict[Subnet, list[Row]]:
    """Return the rows of each member, without values: they are of this device, and of no weights.

    Args:
        source: networks.
        image: (1, C, H, W) on the device.
        by: the command.
    """
    conditions: dict[str, Any] = {
        "architecture": source.conditions.get("architecture", ""),
        "crop_size": image.shape[-1],
        **device_conditions(image.device),
        "by": by,
    }
    return {
        subnet: [
            Row(subnet.name, source.kind, "", 0, "latency", "", name, 0.0, conditions=conditions)
            for name in METRICS
        ]
        for subnet in source.subnets
    }


def is_measured(rows: Sequence[Row], results: Results) -> bool:
    """Tell whether the latency of these rows is in the results, and can be compared."""
    values = [results.by_key[key].value for key in by_key(rows) if key in results.by_key]
    return len(values) == len(rows) and Latency(*values).is_reliable


def measure_rows(
    source: Source, rows: dict[Subnet, list[Row]], image: Tensor, memory: int
) -> Iterator[list[Row]]:
    """Measure latencies, and yield rows for networks whose weights fit into the memory together.

    Args:
        source: networks.
        rows: of those that are to be measured, without values.
        image: (1, C, H, W) on the device.
        memory: bytes for weights; one width at least is measured.
    """
    for group in _width_groups(source.backbone, list(rows), memory):
        networks = {
            width: deepest_network(source.backbone, width).to(image.device)
            for width in by_width(group)
        }
        paths = {subnet: source.backbone.member_path(subnet) for subnet in group}
        yield [
            replace(row, value=getattr(latency, METRICS[row.metric]))
            for subnet, latency in latencies(networks, paths, image).items()
            for row in rows[subnet]
        ]


def _width_groups(
    backbone: ElasticBackbone, subnets: Sequence[Subnet], memory: int
) -> Iterator[list[Subnet]]:
    group: list[Subnet] = []
    total = 0
    for width, members in by_width(subnets).items():
        same = (subnet for subnet in backbone.space if subnet.width == width)
        needs = 4 * backbone.space.cost(max(same, key=lambda subnet: subnet.total_depth)).params
        if group and total + needs > memory:
            yield group
            group, total = [], 0
        group, total = group + members, total + needs
    if group:
        yield group
