"""The best network of a run at a k, and which others are not distinguishable from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poa_plugin.runs.entries import Entry
from poa_plugin.runs.front import accuracy, most_accurate
from poa_plugin.runs.uncertainty import alike, lowest_alike


@dataclass(frozen=True)
class Best:
    """The most accurate trained network of a run at one k."""

    entry: Entry
    k: int

    @property
    def top1(self) -> float:
        """Its accuracy in percent."""
        return self.entry.top1[self.k]

    @property
    def n_test(self) -> int:
        """Images that it was measured on, 0 where that is not known."""
        return self.entry.n_test.get(self.k, 0)

    @property
    def lowest(self) -> float | None:
        """The lowest accuracy that is not distinguishable from its own; None where that is not known."""
        return lowest_alike(self.top1, self.n_test) if self.n_test else None

    def is_like(self, entry: Entry) -> bool:
        """Tell whether another trained network is not distinguishable from it."""
        if entry is self.entry or entry.kind != "trained" or self.k not in entry.top1:
            return False
        n_test = min(entry.n_test.get(self.k, 0), self.n_test)
        return alike(accuracy(entry, self.k), self.top1, n_test)


def best_of(entries: Sequence[Entry], k: int | None) -> Best | None:
    """Return the best of a run's entries at a k; None if no trained network has an accuracy there."""
    trained = [entry for entry in entries if entry.kind == "trained"]
    entry = most_accurate(trained, k)
    return None if entry is None or k is None else Best(entry, k)
