"""What is said below the loss curves: which terms join, and which steps were skipped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from poa_plugin.evaluate.curves import FROM_THE_START
from poa_plugin.evaluate.record import RunRecord

MOST = 8
"""Ranges of skipped steps that are named."""


def loss_notes(records: Sequence[RunRecord]) -> str:
    """Return notes on every run whose loss gets further terms, or that skipped steps, as HTML."""
    notes = []
    for record in records:
        name = f"{record.name}: " if len(records) > 1 else ""
        notes += [f"{name}{note}" for note in (_joins(record), _skipped(record)) if note]
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _joins(record: RunRecord) -> str:
    losses = record.losses
    if losses is None or not losses.joins:
        return ""
    joins = [f"{' and '.join(names)} from step {step:,} on" for step, names in losses.joins]
    text = f"The total gets further terms: {', '.join(joins)}. It jumps there since they are added."
    if losses.from_the_start:
        text += f" “{FROM_THE_START}” is the total without them."
    return text


def _skipped(record: RunRecord) -> str:
    ranges = record.skipped_ranges
    if not ranges:
        return ""
    total = sum(count for _, _, count in ranges)
    named = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b, _ in ranges[:MOST]]
    more = f" and {len(ranges) - MOST} more places" if len(ranges) > MOST else ""
    where = "at step" if total == 1 else "at steps"
    were = "step was" if total == 1 else "steps were"
    return (
        f"{total:,} {were} skipped, since something was not finite, {where} {', '.join(named)}{more}; ticks at "
        f"the bottom of the plot mark them."
    )
