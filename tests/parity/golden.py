"""Reading a folder of golden numbers, and the cases that are measured against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poa_plugin.errors import UserError


@dataclass(frozen=True)
class Case:
    """One line of the report: the largest error of a comparison, or why there was none."""

    name: str
    error: float = 0.0
    tolerance: float = 0.0
    remark: str = ""
    absent: bool = False

    @property
    def failed(self) -> bool:
        return not self.absent and not self.error <= self.tolerance

    @property
    def line(self) -> str:
        if self.absent:
            return f"absent  {self.name}  {self.remark}".rstrip()
        verdict = "FAILED" if self.failed else "ok    "
        errors = f"error {self.error:.2e}  tolerance {self.tolerance:.0e}"
        return f"{verdict}  {self.name}  {errors}  {self.remark}".rstrip()


class Golden:
    """A folder of golden numbers, laid out as its README says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def meta(self, stem: str) -> dict[str, Any] | None:
        path = self.folder / f"{stem}_meta.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def arrays(self, files: Iterable[str]) -> dict[str, Tensor]:
        """Read and merge .npz files; those that are not there are left out."""
        merged = {}
        for file in files:
            if (self.folder / file).is_file():
                with np.load(self.folder / file) as arrays:
                    merged.update({key: torch.from_numpy(arrays[key]) for key in arrays.files})
        return merged


def largest(found: Tensor, wanted: Tensor) -> float:
    """Return the largest absolute difference; infinite for other shapes or non-finite numbers."""
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.numel() == 0:
        return 0.0
    error = (found.detach().double() - wanted.double()).abs().max().item()
    return error if error == error else float("inf")


def compare(
    name: str, found: Tensor | float, wanted: Tensor | float | None, tolerance: float
) -> Case:
    """Return the case of one comparison; absent if the folder has nothing to compare with."""
    if wanted is None:
        return Case(name, absent=True, remark="not in this folder")
    return Case(name, largest(torch.as_tensor(found), torch.as_tensor(wanted)), tolerance)


def worst(name: str, cases: list[Case]) -> Case:
    """Return the comparison with the largest error in relation to its tolerance, under a new name."""
    measured = [case for case in cases if not case.absent]
    if not measured:
        return Case(name, absent=True, remark="not in this folder")
    case = max(measured, key=lambda case: case.error / case.tolerance)
    remark = f"({len(measured)} compared, largest: {case.name})"
    return Case(name, case.error, case.tolerance, remark)


def guarded(name: str, cases: Iterator[Case]) -> Iterator[Case]:
    """Yield cases; one that cannot be run at all is a failure with a remark, and the rest go on."""
    try:
        yield from cases
    except (UserError, KeyError, RuntimeError, ValueError) as error:
        yield Case(name, float("inf"), 0, f"cannot be run: {error!r}")
