"""Steps whose loss or gradient is not finite: skipped, counted, written down, and the end after too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poa_plugin.elastic.subnet import Subnet
from poa_plugin.files import append_line, keep_lines_before


class SkippedSteps:
    """The steps that a run has skipped, one line each in `skipped_steps.jsonl`.

    Args:
        run: the output folder.
        limit: how many in a row end the run.
        start: the step from which the run goes on; an earlier attempt's later lines are dropped.
    """

    def __init__(self, run: Path, limit: int, start: int) -> None:
        self.path, self.limit = run / "skipped_steps.jsonl", limit
        self.in_a_row = 0
        keep_lines_before(self.path, start)

    def note(
        self,
        step: int,
        wrong: Sequence[str],
        shards: Sequence[Mapping[str, Any]],
        subnets: Sequence[Subnet],
    ) -> None:
        """Take in what was not finite in a step (nothing, in a good one), and the step's batches."""
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        if wrong:
            record = {
                "step": step,
                "not_finite": list(wrong),
                "image_ids": [list(shard["image_ids"]) for shard in shards],
                "subnets": [subnet.name for subnet in subnets],
            }
            append_line(self.path, record)
            print(f"\nStep {step} is skipped: not finite: {', '.join(wrong)}.", flush=True)

    @property
    def too_many(self) -> bool:
        """Whether as many steps in a row were skipped as end a run."""
        return self.in_a_row >= self.limit


def not_finite(values: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the scalars that are not finite on any rank; one synchronisation if all are."""
    finite = torch.isfinite(torch.stack([value.detach().float() for value in values.values()]))
    if torch.distributed.is_initialized():
        everywhere = finite.to(torch.uint8)
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        finite = everywhere.bool()
    if bool(finite.all()):
        return []
    return [name for name, ok in zip(values, finite.tolist(), strict=True) if not ok]
