"""What a run's folder says about the run: its configuration, metrics, evaluations and sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from poa_plugin.config.renamed import current_names
from poa_plugin.errors import UserError
from poa_plugin.runs.curves import Losses, loss_curves, skipped_ranges
from poa_plugin.runs.entries import Entry, entries_of, series_of
from poa_plugin.runs.results_file import JSON, read_results
from poa_plugin.runs.training_lines import read_metrics, read_skipped

FILES = ("config.yaml", "metrics.jsonl", f"eval/{JSON}")


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder describes it; what the folder does not hold is empty.

    Attributes:
        name: the folder's.
        config: the text of `config.yaml`; `settings` are its values by dotted key.
        lines: of `metrics.jsonl`.
        skipped: the steps that were skipped, in increasing order, as `skipped_steps.jsonl` has them.
        entries: its networks, and what they are compared with.
        conditions: under which the networks were measured.
    """

    name: str
    config: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[dict[str, Any]] = ()
    skipped: Sequence[int] = ()
    entries: Sequence[Entry] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def losses(self) -> Losses | None:
        """The curves of its losses; None if there are none."""
        return loss_curves(self.lines)

    @cached_property
    def skipped_ranges(self) -> list[tuple[int, int, int]]:
        """Where steps were skipped; see `curves.skipped_ranges`."""
        return skipped_ranges(self.lines, self.skipped)


def read_record(run: Path, results: Path | None = None) -> RunRecord:
    """Read everything that a page shows about a run.

    Args:
        run: its folder.
        results: where its results lie, if not in `RUN/eval`.

    Raises:
        UserError: the folder is not a run's, holds nothing to show, or a file in it is damaged.
    """
    results = results or run / "eval"
    recorded = read_results(results)
    if not recorded.rows and not any((run / name).is_file() for name in FILES):
        raise UserError(
            f"'{run}' is not the output folder of a run: there is no {', no '.join(FILES[:-1])} "
            f"and no {FILES[-1]}."
        )
    lines = read_metrics(run / "metrics.jsonl")
    if not lines and not recorded.rows:
        raise UserError(f"'{run}' has nothing to show yet: no metrics and no evaluation.")
    text, settings = _read_config(run / "config.yaml")
    return RunRecord(
        name=printable(run.resolve().name),
        config=text,
        settings=settings,
        lines=lines,
        skipped=read_skipped(run / "skipped_steps.jsonl"),
        entries=entries_of(recorded),
        conditions=series_of(recorded).conditions,
    )


def printable(name: str) -> str:
    """Return a file's name as text that can be written, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read_config(file: Path) -> tuple[str, dict[str, str]]:
    if not file.is_file():
        return "", {}
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return text, current_names(_flat(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        raise UserError(f"The configuration in '{file}' cannot be read: {error}.") from error


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings by dotted key, as words."""
    if not isinstance(value, dict):
        return {prefix: "null" if value is None else str(value)} if prefix else {}
    parts = (_flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in value.items())
    return {key: word for part in parts for key, word in part.items()}
