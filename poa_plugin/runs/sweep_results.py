"""What a sweep found: every network's sizes, latency and accuracy, and under which conditions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.files import write_whole
from poa_plugin.runs.results import is_count, is_number
from poa_plugin.runs.uncertainty import standard_error

JSON, CSV = "sweep.json", "sweep.csv"


@dataclass(frozen=True)
class NetworkResult:
    """One sub-network.

    Attributes:
        network: its name; `aliases` are its further names.
        width, depth: see `Subnet`; the depth is the total over stages.
        params, flops: parameters, and multiply-adds of one image.
        latency_ms: milliseconds for one image on the sweep's device, the median; None if it was not
            measured. `latency_spread_ms` is the distance between the quartiles.
        top1: accuracy in percent by k, empty if it was not evaluated.
    """

    network: str
    aliases: tuple[str, ...]
    width: int
    depth: int
    params: int
    flops: int
    latency_ms: float | None = None
    top1: Mapping[int, float] = field(default_factory=dict)
    latency_spread_ms: float | None = None


@dataclass(frozen=True)
class Sweep:
    """All networks of a run, in the order of its search space.

    Attributes:
        conditions: plain values by name: `run`, `family`, `step`, `branch`, `dataset`, `image_size`, `ks`,
            `temperature`, `n_train`, `n_test`, `device`, `threads`, `torch`.
    """

    conditions: Mapping[str, Any]
    networks: Sequence[NetworkResult]

    @property
    def ks(self) -> list[int]:
        """The k for which there are accuracies, in increasing order."""
        return sorted({k for network in self.networks for k in network.top1})

    @property
    def n_test(self) -> int:
        """Images that the accuracies were measured on; 0 where the sweep does not say."""
        number = self.conditions.get("n_test")
        return number if isinstance(number, int) and number > 0 else 0


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write `sweep.json` and `sweep.csv` into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "conditions": dict(sweep.conditions),
        "networks": [asdict(network) for network in sweep.networks],
    }
    write_whole(folder / JSON, json.dumps(record, indent=1) + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    columns = ["name", "also_called", "width", "depth", "params", "flops"]
    columns += ["latency_ms", "latency_spread_ms"]
    errors = [f"standard_error_k{k}" for k in sweep.ks] if sweep.n_test else []
    writer.writerow([*columns, *[f"top1_k{k}" for k in sweep.ks], *errors])
    for own in sweep.networks:
        times = [
            "" if time is None else f"{time:.4g}"
            for time in (own.latency_ms, own.latency_spread_ms)
        ]
        sizes = [own.width, own.depth, own.params, own.flops, *times]
        accuracies = [own.top1.get(k, "") for k in sweep.ks]
        writer.writerow(
            [own.network, " ".join(own.aliases), *sizes, *accuracies, *_errors(own, sweep)]
        )
    write_whole(folder / CSV, table.getvalue())


def read_sweep(folder: Path) -> Sweep | None:
    """Read what `write_sweep` left in a folder; None if nothing was written yet.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / JSON
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        networks = [_network(own) for own in record["networks"]]
        return Sweep(dict(record["conditions"]), networks)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The sweep in '{file}' cannot be read: {error!r}.") from error


def _errors(network: NetworkResult, sweep: Sweep) -> list[str]:
    """Return the standard errors of a network's accuracies, none if the number of images is not known."""
    if not sweep.n_test:
        return []
    return [
        f"{standard_error(network.top1[k], sweep.n_test):.4g}" if k in network.top1 else ""
        for k in sweep.ks
    ]


def _network(record: dict[str, Any]) -> NetworkResult:
    top1 = {int(k): float(value) for k, value in record["top1"].items()}
    own = NetworkResult(**{**record, "aliases": tuple(record["aliases"]), "top1": top1})
    if not all(isinstance(name, str) for name in (own.network, *own.aliases)):
        raise ValueError(f"the record of '{own.network}' has a name that is not text")
    sizes = (own.width, own.depth, own.params, own.flops)
    times = (own.latency_ms or 0, own.latency_spread_ms or 0)
    if not all(is_count(size) for size in sizes) or not all(map(is_number, times)):
        raise ValueError(f"the record of '{own.network}' holds something that is not a number")
    return own
