"""A run's networks evaluated: beside their untrained selves, another run and raw pixels, and timed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from poa_plugin.evaluate.evaluator import PIXELS, Evaluator
from poa_plugin.evaluate.latency_rows import is_measured, latency_rows, measure_rows
from poa_plugin.evaluate.networks import by_width, chosen_networks
from poa_plugin.evaluate.source import Source, reference_source, trained_source, untrained_source
from poa_plugin.evaluate.splits import labeled_splits
from poa_plugin.evaluate.tree import PrefixTree
from poa_plugin.registry import PROTOCOLS
from poa_plugin.runs.entries import series_of
from poa_plugin.runs.former_results import BY_KNN, BY_SWEEP
from poa_plugin.runs.results import Results, Row, by_key
from poa_plugin.runs.run import Run
from poa_plugin.targets import EVALUATION, check_entries

SILENT = ("images", "series", "by")
"""Conditions of which a user reads nothing in a sentence, or that others cause."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and how.

    Attributes:
        networks: names, or `all` that were trained.
        widths: only networks of these; of all if None.
        branch: `teacher` or `student`.
        protocol: its registered name; `settings` are its own, such as `ks` and `temperature`.
        untrained: evaluate the same networks before training, too.
        pixels: evaluate raw pixels, too.
        reference: another run on the same data, whose intact network is evaluated, too.
        latency: measure the networks' latencies, too.
        memory: bytes; see `Evaluator`.
        own_data: whether the images are those of the run's configuration.
        to: a folder for results and features in the place of `RUN/eval`.
        is_sweep: whether tables, page and `poa pick` show these networks first.
    """

    networks: Sequence[str] = ("all",)
    widths: Sequence[int] | None = None
    branch: str = "teacher"
    protocol: str = "knn"
    settings: Mapping[str, Any] = field(default_factory=dict)
    untrained: bool = False
    pixels: bool = False
    reference: Run | None = None
    latency: bool = False
    memory: int = 4_000_000_000
    own_data: bool = True
    to: Path | None = None
    is_sweep: bool = False


def evaluate_run(run: Run, options: EvaluationOptions) -> Results:
    """Evaluate a run's networks, and add the rows to `RUN/eval/results.json` and `.csv`.

    Networks are written one by one. What an earlier call under the same conditions finished is not done
    again. A sentence on stderr names networks that were never trained.

    Returns:
        The rows of these networks; of a sweep those of earlier calls under the same conditions among them.

    Raises:
        UserError: a name or a width is unknown, the data set is empty or has no labels, the protocol's
            settings do not fit, the memory does not suffice for one image, or the results cannot be written.
    """
    folder = options.to or run.folder / "eval"
    check_entries(folder, "The folder for results", EVALUATION)
    sources = _sources(run, options)
    splits = labeled_splits(run.config)
    protocol = PROTOCOLS.get(options.protocol)(*splits, **options.settings)
    by = BY_SWEEP if options.is_sweep else BY_KNN
    evaluator = Evaluator(
        run.config, splits, protocol, folder, options.memory, by, options.own_data
    )
    _announce(evaluator, sources, options.is_sweep)
    evaluator.evaluate(sources, options.pixels)
    if options.latency:
        _measure(evaluator, sources[0])
    labels = [source.row(subnet) for source in sources for subnet in source.subnets]
    labels += [PIXELS] * options.pixels
    evaluator.add(
        [_claimed(row, by) for label in labels for row in evaluator.finished(label) or ()]
    )
    shown = sources[0]
    if options.is_sweep:
        shown = replace(shown, subnets=list(shown.backbone.space))
        labels = [shown.row(subnet) for subnet in shown.subnets]
    rows = [row for label in labels for row in evaluator.finished(label) or ()]
    if options.is_sweep or options.latency:
        rows += _latencies(evaluator, shown)
    return replace(evaluator.results, rows=rows)


def _sources(run: Run, options: EvaluationOptions) -> list[Source]:
    """Return the networks to evaluate, those of the run first, after a check of the image size."""
    sources = [trained_source(run, options.branch)]
    if options.reference is not None:
        sources.append(reference_source(options.reference, options.branch))
    for source in sources:
        source.backbone.check_image_size(run.config.evaluation.crop_size)
    space = sources[0].backbone.space
    subnets = chosen_networks(run, space, options.networks, options.widths)
    sources[0] = replace(sources[0], subnets=subnets)
    if options.untrained:
        sources.insert(1, untrained_source(run, options.branch, subnets))
    return sources


def _claimed(row: Row, by: str) -> Row:
    """Return a row as if this command had written it; those of a sweep stay a sweep's."""
    if row.by == BY_SWEEP:
        return row
    return replace(row, conditions={**row.conditions, "by": by})


def _measure(evaluator: Evaluator, source: Source) -> None:
    """Measure the latencies that are not in the results, or not reliable."""
    rows = latency_rows(source, evaluator.image, evaluator.by)
    missing = {s: each for s, each in rows.items() if not is_measured(each, evaluator.results)}
    for measured_rows in measure_rows(source, missing, evaluator.image, evaluator.quarter):
        evaluator.add(measured_rows)


def _latencies(evaluator: Evaluator, source: Source) -> list[Row]:
    """Return the latencies of networks on this device, as far as they were measured."""
    rows = latency_rows(source, evaluator.image, evaluator.by)
    measured = evaluator.results.by_key
    keys = by_key(row for each in rows.values() for row in each)
    return [measured[key] for key in keys if key in measured]


def _announce(evaluator: Evaluator, sources: Sequence[Source], is_sweep: bool) -> None:
    """Print how much work there is, and for a sweep which conditions differ from those of the newest one."""
    members = [(s, each) for s in sources for each in by_width(s.subnets).values()]
    trees = [PrefixTree.of(source.backbone, subnets) for source, subnets in members]
    steps, single = sum(map(len, trees)), sum(tree.single_steps for tree in trees)
    n_networks = sum(len(source.subnets) for source in sources)
    n_finished = n_networks - sum(len(evaluator.missing(source)) for source in sources)
    if is_sweep and not n_finished:
        _announce_changes(evaluator, sources[0])
    print(
        f"{n_networks} network{'s' * (n_networks > 1)}: {steps} modules run for each image in place of "
        f"{single} ({steps / single:.2f})"
        + (f"; {n_finished} networks were finished before." if n_finished else "."),
        flush=True,
    )


def _announce_changes(evaluator: Evaluator, source: Source) -> None:
    rows = [row for row in evaluator.results.rows if row.by == BY_SWEEP]
    if any(not row.series for row in rows):
        print(
            f"The sweep of a former version, which resized images otherwise, stays in "
            f"'{evaluator.folder}{os.sep}'; the networks are evaluated again.",
            flush=True,
        )
        return
    old = series_of(Results(rows)).conditions
    new = {"step": source.step, "branch": source.branch, **evaluator.conditions}
    changes = [
        f"{name} was {old[name]} and is {new[name]}"
        for name in new
        if name in old and name not in SILENT and old[name] != new[name]
    ]
    if changes:
        print(f"Starting the sweep anew: {'; '.join(changes)}. The former one stays.", flush=True)
