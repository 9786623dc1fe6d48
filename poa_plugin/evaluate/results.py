"""Rows of an evaluation: written, read, and shown as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from poa_plugin.elastic.subnet import SearchSpace
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.evaluate.uncertainty import MARK, alike, legend, plus_minus
from poa_plugin.files import write_whole

KINDS = ("trained", "untrained", "reference", "pixels")


@dataclass(frozen=True)
class KnnRow:
    """Accuracy of one network at one k.

    `kind` is one of KINDS: the run's network, the same before training, another run's intact
    network, or raw pixels. `top1` is in percent on `n_test` images (0 where that is not known), `flops`
    are multiply-adds of one image. Rows of one `protocol` were measured on the same images in the same way,
    which `data` says in words; both are empty where that is not known.
    """

    network: str
    kind: str
    k: int
    top1: float
    width: int = 0
    depth: int = 0
    params: int = 0
    flops: int = 0
    branch: str = ""
    step: int = 0
    n_test: int = 0
    protocol: str = ""
    data: str = ""


def merge_rows(old: Sequence[KnnRow], new: Sequence[KnnRow]) -> list[KnnRow]:
    """Return old rows with new ones in the place of those of the same network, kind and k."""
    rows = {(row.network, row.kind, row.k): row for row in [*old, *new]}
    return sorted(rows.values(), key=lambda r: (KINDS.index(r.kind), r.width, r.depth, r.k))


def write_rows(folder: Path, rows: Sequence[KnnRow]) -> None:
    """Write `knn.json` and `knn.csv` into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [asdict(row) for row in rows]
    write_whole(folder / "knn.json", json.dumps(records, indent=1) + "\n")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(KnnRow.__dataclass_fields__))
    writer.writeheader()
    writer.writerows(records)
    write_whole(folder / "knn.csv", table.getvalue())


def read_rows(folder: Path) -> list[KnnRow]:
    """Read the rows that `write_rows` left in a folder; none if nothing was written yet.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / "knn.json"
    if not file.is_file():
        return []
    try:
        return [_row(record) for record in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f"The results in '{file}' cannot be read: {error}.") from error


def beside_untrained(rows: Sequence[KnnRow]) -> Iterator[tuple[str, KnnRow, KnnRow | None]]:
    """Yield what a table shows: a row's label, the row, and the one before training if there is one."""
    before = {(row.network, row.k): row for row in rows if row.kind == "untrained"}
    for row in rows:
        if row.kind == "trained":
            yield row.network, row, before.get((row.network, row.k))
        elif row.kind != "untrained":
            yield f"{row.kind}: {row.network}", row, None


def results_table(rows: Sequence[KnnRow]) -> str:
    """Return a text table: one line for each network and k, trained beside untrained.

    An accuracy stands with its standard error. MARK stands beside a trained network that is not
    distinguishable from the best one at the same k.
    """
    best = {k: _best(rows, k) for k in {row.k for row in rows}}
    known = any(row.n_test for row in rows)
    wide = 10 if known else 6
    lines = [
        f"{'network':<22} {'params':>8} {'FLOPs':>8} {'k':>4} {'top-1':>{wide}} "
        f"{' ' * 2 * known}{'untrained':>{max(wide, 9)}} {'gain':>6}"
    ]
    for name, row, start in beside_untrained(rows):
        top1 = f"{plus_minus(row.top1, row.n_test):>{wide}} "
        mark = f"{MARK if _like(row, best[row.k]) else '':<2}" if known else ""
        compared = (
            f"{plus_minus(start.top1, start.n_test):>{max(wide, 9)}} {row.top1 - start.top1:+6.1f}"
            if start is not None
            else ""
        )
        size = f"{short(row.params):>8} {short(row.flops):>8}"
        lines.append(f"{name:<22} {size} {row.k:>4} {top1}{mark}{compared}".rstrip())
    if known:
        n_test = max(row.n_test for row in rows)
        lines.append(f"{legend('the best network at its k', n_test)}")
    return "\n".join(lines)


def network_table(space: SearchSpace, image_size: int | None = None) -> str:
    """Return a text table of a space: name, width, depth, parameters, FLOPs, further names."""
    size = image_size or space.image_size
    lines = [f"{'name':<14} {'width':>5} {'depth':>5} {'params':>8} {'FLOPs':>8}  also called"]
    for subnet in space:
        cost = space.cost(subnet, size)
        aliases = ", ".join(space.aliases_of(subnet))
        line = (
            f"{subnet.name:<14} {subnet.width:>5} {subnet.total_depth:>5} "
            f"{short(cost.params):>8} {short(cost.flops):>8}  {aliases}"
        )
        lines.append(line.rstrip())
    lines.append(f"{len(space)} networks; FLOPs are multiply-adds of one {size} x {size} image")
    return "\n".join(lines)


def short(number: int) -> str:
    """Return a count with three digits and a letter, such as 21.7M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number) if number else "-"


def is_number(value: Any) -> bool:
    """Tell whether a value read from a file is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Tell whether a value read from a file is a number that something can be counted with."""
    return is_number(value) and 0 <= value < math.inf


def _best(rows: Sequence[KnnRow], k: int) -> KnnRow | None:
    """Return the trained network of the highest accuracy at a k."""
    trained = [row for row in rows if row.kind == "trained" and row.k == k]
    return max(trained, key=lambda row: row.top1, default=None)


def _like(row: KnnRow, best: KnnRow | None) -> bool:
    """Tell whether a row is another network than the best one, and not distinguishable from it."""
    if best is None or row is best or row.kind != "trained":
        return False
    return alike(row.top1, best.top1, min(row.n_test, best.n_test))


def _row(record: dict[str, Any]) -> KnnRow:
    row = KnnRow(**record)
    texts = (row.network, row.branch, row.protocol, row.data)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the network '{row.network}' has a name that is not text")
    if row.kind not in KINDS:
        raise ValueError(f"unknown kind '{row.kind}'; {did_you_mean(str(row.kind), KINDS)}")
    counts = (row.k, row.width, row.depth, row.params, row.flops, row.step, row.n_test)
    if not is_number(row.top1) or not all(map(is_count, counts)):
        raise ValueError(f"the row of '{row.network}' holds something that is not a number")
    return row
