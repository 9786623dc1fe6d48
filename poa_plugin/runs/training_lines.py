"""What a training writes line by line: `metrics.jsonl` and `skipped_steps.jsonl`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from poa_plugin.errors import UserError
from poa_plugin.runs.results import is_count, is_number

T = TypeVar("T")


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; none if there is no file.

    A last line that is cut off, as a run that was killed leaves it, is left out.

    Raises:
        UserError: another line is damaged, or has no step, loss or terms.
    """
    return _read_lines(file, _line)


def read_skipped(file: Path) -> list[int]:
    """Read the steps in a `skipped_steps.jsonl`, in increasing order; none if there is no file.

    Raises:
        UserError: a line other than the last is damaged.
    """
    return sorted(set(_read_lines(file, _step)))


def _read_lines(file: Path, parse: Callable[[str], T]) -> list[T]:
    """Return the lines of a file as `parse` reads them, without a last one that is cut off."""
    if not file.is_file():
        return []
    texts = file.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(parse(text))
        except ValueError as error:
            if number < len(texts):
                raise UserError(f"Line {number} of '{file}' cannot be read: {error}.") from error
    return lines


def _line(text: str) -> dict[str, Any]:
    line = json.loads(text)
    missing = {"step", "loss", "terms"} - set(line if isinstance(line, dict) else ())
    if missing:
        raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
    if not is_count(line["step"]):
        raise ValueError(f"its step is {line['step']!r}")
    if line["loss"] is not None and not is_number(line["loss"]):
        raise ValueError(f"its loss is {line['loss']!r}")
    if not isinstance(line["terms"], dict) or not all(map(is_number, line["terms"].values())):
        raise ValueError("its terms are not numbers by name")
    for name in ("seconds", "images_per_second", "skipped_steps"):
        if not is_number(line.get(name, 0)):
            raise ValueError(f"its {name} is {line[name]!r}")
    subnets = line.get("subnets") or []
    if not isinstance(subnets, list) or not all(isinstance(name, str) for name in subnets):
        raise ValueError("its subnets are not a list of names")
    return dict(line)


def _step(text: str) -> int:
    line = json.loads(text)
    if not isinstance(line, dict) or not is_count(line.get("step")):
        raise ValueError("it has no step")
    return int(line["step"])
