"""The results of a run: rows of one kind, whatever was measured."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError, did_you_mean

KINDS = ("trained", "untrained", "reference", "pixels")
NOT_MEASURED_BY = ("by", "n_train")
"""Conditions on which no value depends."""


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        network: the network's name; that of its run for a reference.
        kind: one of `KINDS`: the run's network, the same before training, another run's intact network, or
            raw pixels.
        branch, step: of the weights; empty and 0 where they do not matter.
        protocol: how it was measured, such as `knn` or `latency`.
        data: the images and their sizes, as a phrase.
        metric: what the number is, with its parameter, such as `top1_k20` (percent) or `latency_ms`.
        value: the number.
        standard_error: in the unit of the value; None where it has none.
        n: test images, 0 where that is not recorded.
        conditions: all else that decides the value, JSON values. Rows of one `series` were measured on the
            same images in the same way; `by` is the command.
    """

    network: str
    kind: str
    branch: str
    step: int
    protocol: str
    data: str
    metric: str
    value: float
    standard_error: float | None = None
    n: int = 0
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int | None:
        """The neighbors of a k-NN accuracy; None for any other metric."""
        match = re.fullmatch(r"top1_k(\d+)", self.metric) if self.protocol == "knn" else None
        return int(match[1]) if match else None

    @property
    def series(self) -> str:
        """What rows share that can be compared with each other; empty where it is not recorded."""
        return str(self.conditions.get("series", ""))

    @property
    def by(self) -> str:
        """The command that wrote the row."""
        return str(self.conditions.get("by", ""))


@dataclass(frozen=True)
class Network:
    """What a network is.

    Attributes:
        network: its name, as in its rows; `aliases` are its further names.
        width, depth: see `Subnet`; the depth is the total over stages.
        params, flops: parameters, and multiply-adds of one image; any size is 0 where it is not recorded.
        image_size: the side in pixels at which the multiply-adds are counted.
        is_reference: whether it is another run's.
    """

    network: str
    width: int = 0
    depth: int = 0
    params: int = 0
    flops: int = 0
    image_size: int = 0
    aliases: tuple[str, ...] = ()
    is_reference: bool = False


@dataclass(frozen=True)
class Results:
    """Rows in the order in which they were written, and the networks that they are about."""

    rows: Sequence[Row] = ()
    networks: Sequence[Network] = ()

    def select(self, **labels: Any) -> Results:
        """Return the rows whose attributes have these values."""
        rows = [row for row in self.rows if all(getattr(row, k) == v for k, v in labels.items())]
        return replace(self, rows=rows)

    def merged(self, rows: Iterable[Row], networks: Iterable[Network]) -> Results:
        """Return these results with newer ones in the place of those of the same key, at the end."""
        merged = dict(self.by_key)
        for key, row in by_key(rows).items():
            merged.pop(key, None)
            merged[key] = row
        sizes = {
            (network.is_reference, network.network, network.image_size): network
            for network in (*self.networks, *networks)
        }
        order = sorted(sizes.values(), key=lambda n: (n.is_reference, n.width, n.depth, n.params))
        return Results(list(merged.values()), order)

    def network_of(self, row: Row) -> Network:
        """Return what the network of a row is, at the row's image size if that is recorded."""
        sizes = self._sizes.get((row.kind == "reference", row.network), [])
        size = row.conditions.get("crop_size")
        same = [network for network in sizes if network.image_size == size]
        return (same or sizes or [Network(row.network)])[-1]

    @cached_property
    def by_key(self) -> Mapping[tuple[Any, ...], Row]:
        """The rows by their keys."""
        return by_key(self.rows)

    @cached_property
    def _sizes(self) -> dict[tuple[bool, str], list[Network]]:
        sizes: dict[tuple[bool, str], list[Network]] = {}
        for network in self.networks:
            sizes.setdefault((network.is_reference, network.network), []).append(network)
        return sizes


def by_key(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Return rows by a key that two measurements of the same thing share; of these the last.

    Many rows share their conditions, which are named once.
    """
    names: dict[int, str] = {}  # by identity: what is named stays alive meanwhile
    keyed = {}
    rows = list(rows)
    for row in rows:
        if id(row.conditions) not in names:
            conditions = {k: v for k, v in row.conditions.items() if k not in NOT_MEASURED_BY}
            names[id(row.conditions)] = conditions_name(conditions)
        weights = (row.network, row.kind, row.branch, row.step)
        keyed[(weights, row.protocol, row.metric, names[id(row.conditions)])] = row
    return keyed


def conditions_name(conditions: Mapping[str, Any]) -> str:
    """Return a name for conditions, the same for equal ones: 16 hexadecimal digits."""
    text = json.dumps(conditions, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def damaged(file: Path) -> Iterator[None]:
    """Turn what goes wrong while a file of results is parsed into a sentence that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"The results in '{file}' cannot be read: {error!r}.") from error


def check(results: Results) -> Results:
    """Return results that hold what they are declared to hold.

    Raises:
        ValueError: a value is of another type, or a kind is unknown.
    """
    for row in results.rows:
        if row.kind not in KINDS:
            raise ValueError(f"unknown kind '{row.kind}'; {did_you_mean(str(row.kind), KINDS)}")
        texts = (row.network, row.branch, row.protocol, row.data, row.metric)
        numbers = (row.value, row.standard_error or 0)
        _check(row.network, texts, numbers, (row.step, row.n))
        if not isinstance(row.conditions, Mapping):
            raise ValueError(f"the conditions of '{row.network}' are not named values")
    for network in results.networks:
        sizes = (network.width, network.depth, network.params, network.flops, network.image_size)
        _check(network.network, (network.network, *network.aliases), (), sizes)
    return results


def is_number(value: Any) -> bool:
    """Tell whether a value read from a file is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Tell whether a value read from a file is a number that something can be counted with."""
    return is_number(value) and 0 <= value < math.inf


def _check(name: Any, texts: Sequence[Any], numbers: Sequence[Any], counts: Sequence[Any]) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"'{name}' has a name that is not text")
    if not all(map(is_number, numbers)) or not all(map(is_count, counts)):
        raise ValueError(f"'{name}' holds something that is not a number")
