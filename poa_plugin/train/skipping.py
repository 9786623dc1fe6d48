"""Steps in which something is not finite: skipped, counted, recorded; too many end the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poa_plugin import ranks
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.files import append_record, disk_errors, drop_records_from

GRADIENT = "gradient of "
"""What the name of a gradient begins with, among the values of a step that have to be finite."""


class SkippedSteps:
    """The steps that a run has skipped, one line each in `skipped_steps.jsonl`.

    The fp16 gradient scaler starts at a scale that is too high for most networks, and halves it in each
    step in which a gradient overflows, until one fits. These first steps are skipped like any other; but
    they are a search for the scale, and end the run only if the scale falls below 1.

    Args:
        run: the output folder; rank 0 writes into it.
        limit: how many in a row end the run.
        start: the step from which the run resumes; an earlier attempt's later lines are dropped.
        scaler_fits: whether the gradient scaler, if there is one, has reached a scale that fits.

    Attributes:
        in_a_row: how many were skipped since the last finite step.
        any_finite: whether a step of the run was finite; a checkpoint after step 0 implies one.

    Raises:
        UserError: here or in `record`, the disk refuses to write.
    """

    def __init__(self, run: Path, limit: int, start: int, scaler_fits: bool = False) -> None:
        self.run, self.path, self.limit = run, run / "skipped_steps.jsonl", limit
        self.in_a_row, self.any_finite = 0, start > 0
        self._searched, self._scaler_fits = 0, scaler_fits
        if ranks.is_first():
            with disk_errors(run):
                drop_records_from(self.path, start)

    def record(
        self,
        step: int,
        non_finite: Sequence[str],
        image_ids: Sequence[Sequence[int]],
        subnets: Sequence[Subnet],
        scaler: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one step; called by all ranks.

        Args:
            step: its number.
            non_finite: names of the values that were not finite; empty in a finite step.
            image_ids: of the images of this process's shards.
            subnets: its elastic students.
            scaler: the state of the gradient scaler, if there is one, before a skipped step.
        """
        if not non_finite:
            self.in_a_row = self._searched = 0
            self.any_finite = self._scaler_fits = True
            return
        of_ranks = ranks.gathered_objects([list(ids) for ids in image_ids])
        entry = {
            "step": step,
            "not_finite": list(non_finite),
            "image_ids": [ids for of_rank in of_ranks for ids in of_rank],
            "subnets": [subnet.name for subnet in subnets],
        }
        reason = f"not finite: {', '.join(non_finite)}"
        self.in_a_row += 1
        if scaler is not None:
            scale = entry["loss_scale"] = scaler["scale"]
            if all(name.startswith(GRADIENT) for name in non_finite):
                reason = f"fp16 cannot hold the {' and the '.join(non_finite)} times {scale:g}; it is halved"
                self._searched += not self._scaler_fits and scale >= 1
        if ranks.is_first():
            with disk_errors(self.run):
                append_record(self.path, entry)
            print(f"\nStep {step} is skipped: {reason}.", flush=True)

    @property
    def too_many(self) -> bool:
        """Whether so many steps in a row were skipped that the run ends."""
        return self.in_a_row - self._searched >= self.limit
