"""Names of sub-networks that are not in a search space, and the nearest ones that are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poa_plugin.elastic.subnet import Subnet

NAME = re.compile(r"w(\d+)[_-]?d(\d+(?:[-,x]\d+)*)", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """The width and depths in a requested name."""

    width: int
    depths: tuple[int, ...]

    def distance(self, subnet: Subnet) -> tuple[int, int]:
        """Return how far a sub-network is from it: in width, and then in blocks."""
        depths = subnet.depths or (subnet.depth,)
        if len(depths) == len(self.depths):
            blocks = sum(abs(a - b) for a, b in zip(depths, self.depths, strict=True))
        else:
            blocks = abs(subnet.total_depth - sum(self.depths))
        return abs(subnet.width - self.width), blocks


def parse_name(name: str) -> Size | None:
    """Return the size in a name such as `w50_d2` or `w64_d3-4-6-3`; None for other names."""
    match = NAME.fullmatch(name.strip())
    if match is None:
        return None
    return Size(int(match[1]), tuple(int(depth) for depth in re.split("[-,x]", match[2].lower())))


def in_words(numbers: Iterable[int]) -> str:
    """Return the distinct numbers in words: `3`, `1, 2, 5`, or `384 to 1024 in steps of 64`."""
    distinct = sorted(set(numbers))
    steps = {b - a for a, b in zip(distinct, distinct[1:], strict=False)}
    if len(distinct) < 4 or len(steps) > 1:
        return ", ".join(map(str, distinct))
    [step] = steps
    return f"{distinct[0]} to {distinct[-1]}" + (f" in steps of {step}" if step > 1 else "")
