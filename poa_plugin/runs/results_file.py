"""`results.json` and `results.csv` in a run's `eval` folder."""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from poa_plugin.files import write_atomically
from poa_plugin.runs.former_results import BY_SWEEP, read_former_results
from poa_plugin.runs.results import Network, Results, Row, check, conditions_name, damaged

JSON, CSV = "results.json", "results.csv"
VERSION = 1


def read_results(folder: Path) -> Results:
    """Read the results in a folder, those that earlier versions wrote if there are no others.

    Raises:
        UserError: a file is damaged.
    """
    file = folder / JSON
    if not file.is_file():
        return read_former_results(folder)
    with damaged(file):
        return _parse(json.loads(file.read_text(encoding="utf-8")))


def add_results(
    folder: Path, rows: Iterable[Row], networks: Iterable[Network], adopt: str = ""
) -> Results:
    """Write rows into `results.json` and `results.csv`, beside those of other conditions.

    Several processes may write at the same time. Each file is written whole or not at all.

    Args:
        folder: `RUN/eval`.
        rows, networks: new ones.
        adopt: the series of rows of earlier versions that recorded none.

    Returns:
        All results in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".results.lock"):
        before = read_results(folder)
        results = replace(
            before, rows=_adopted(before.rows, adopt) if adopt else before.rows
        ).merged(rows, networks)
        names = _names(results.rows)
        write_atomically(folder / JSON, _json(results, names))
        write_atomically(folder / CSV, _csv(results, names))
    return results


def _adopted(rows: Sequence[Row], series: str) -> list[Row]:
    """Return rows with a series where they have none.

    Sweeps of versions that recorded none resized images otherwise, and are comparable with nothing.
    """
    return [
        row
        if row.series or row.protocol == "latency"
        else replace(
            row,
            conditions={**row.conditions, "series": "former" if row.by == BY_SWEEP else series},
        )
        for row in rows
    ]


def _parse(record: Mapping[str, Any]) -> Results:
    if record["version"] > VERSION:
        raise ValueError("a later version wrote it")
    conditions = record["conditions"]
    rows = [Row(**{**row, "conditions": conditions[row["conditions"]]}) for row in record["rows"]]
    networks = [Network(**{**n, "aliases": tuple(n["aliases"])}) for n in record["networks"]]
    return check(Results(rows, networks))


def _json(results: Results, names: Mapping[int, str]) -> str:
    """Return the text of `results.json`: a row a line, with the conditions' name in their place."""
    conditions = {names[id(row.conditions)]: row.conditions for row in results.rows}
    parts = {
        "networks": [asdict(network) for network in results.networks],
        "rows": [_labels(row, names) for row in results.rows],
    }
    lists = [
        f'"{name}": [\n' + ",\n".join(json.dumps(record) for record in records) + "\n]"
        for name, records in parts.items()
    ]
    named = f'"conditions": {json.dumps(conditions, indent=1, default=str)}'
    return "{\n" + ",\n".join([f'"version": {VERSION}', named, *lists]) + "\n}\n"


def _csv(results: Results, names: Mapping[int, str]) -> str:
    """Return the text of `results.csv`: the rows, each with the sizes of its network."""
    sizes = ("width", "depth", "params", "flops", "image_size")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*(f.name for f in fields(Row)), *sizes, "aliases"])
    writer.writeheader()
    for row in results.rows:
        network = results.network_of(row)
        columns = {size: getattr(network, size) or "" for size in sizes}
        aliases = {"aliases": " ".join(network.aliases)}
        writer.writerow({**_labels(row, names), **columns, **aliases})
    return table.getvalue()


def _labels(row: Row, names: Mapping[int, str]) -> dict[str, Any]:
    labels = {f.name: getattr(row, f.name) for f in fields(Row)}
    return {**labels, "conditions": names[id(row.conditions)]}


def _names(rows: Sequence[Row]) -> dict[int, str]:
    """Return the name of each row's conditions by their identity: many rows share one mapping."""
    by_identity = {id(row.conditions): row.conditions for row in rows}
    return {identity: conditions_name(each) for identity, each in by_identity.items()}


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait until no other process writes; on a file system without locks there are taken to be none."""
    with file.open("w") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
