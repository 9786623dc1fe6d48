"""What is said below the loss curves: which terms join, and which steps were skipped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from poa_plugin.runs.curves import FROM_THE_START
from poa_plugin.runs.record import RunRecord

MOST = 8
"""Places of skipped steps that are named for a run."""


def loss_notes(records: Sequence[RunRecord]) -> str:
    """Return notes on terms that join the loss, and on steps that were skipped, as HTML."""
    notes = []
    joins = _by_run(records, [_joins(record) for record in records])
    if joins:
        compared = any(record.losses and record.losses.from_the_start for record in records)
        without = f" “{FROM_THE_START}” is the total without them." if compared else ""
        notes.append(
            f"Further terms join the total: {joins}. It jumps there because they are added, not because "
            f"training diverges.{without}"
        )
    skipped = _by_run(records, [_skipped(record) for record in records])
    if skipped:
        drawn = any(record.losses for record in records)
        ticks = (
            " Ticks at the bottom of the plot mark them." if drawn else " No other step was logged."
        )
        notes.append(f"Skipped because something was not finite: {skipped}.{ticks}")
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _by_run(records: Sequence[RunRecord], texts: Sequence[str]) -> str:
    """Return what there is to say of each run, with its name where there are several."""
    named = [
        f"{record.name}: {text}" if len(records) > 1 else text
        for record, text in zip(records, texts, strict=True)
        if text
    ]
    return "; ".join(named)


def _joins(record: RunRecord) -> str:
    joins = record.losses.joins if record.losses else ()
    return ", ".join(f"{' and '.join(names)} from step {step:,} on" for step, names in joins)


def _skipped(record: RunRecord) -> str:
    ranges = record.skipped_ranges
    if not ranges:
        return ""
    total = sum(count for _, _, count in ranges)
    places = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b, _ in ranges[:MOST]]
    more = f" and {len(ranges) - MOST:,} more places" if len(ranges) > MOST else ""
    return f"{total:,} step{'s' * (total > 1)} ({', '.join(places)}{more})"
