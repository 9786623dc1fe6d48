"""Values drawn for keys of the schema: far outside, at the edge, just outside it, and typical."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from poa_plugin.config.fields import Range, show
from poa_plugin.config.keys import Key

FAR = [
    *("1e30", "-1e30", "-1", "0", "nan", "inf", "-inf", ".nan", str(2**40), str(2**70), "9" * 500),
    *("9" * 350, f"0x{'f' * 390}"),
    *(
        "",
        " ",
        "abc",
        "true",
        "1.5",
        "null",
        "~",
        "'",
        '"',
        "\\",
        "???",
        "$",
        "${x}",
        "${",
        "\udcff",
    ),
    *(
        "[]",
        "[1]",
        "[0]",
        "[-1, 0]",
        "[1, 2, 3, 4, 5, 6, 7]",
        "[[1]]",
        "[null]",
        "[a, b]",
        "{a: 1}",
    ),
    *("[nan, 1]", "[1", "{", "a: b", "1,2", "0x10", "1e-30", "-0.0", "${oc.env:NO_SUCH_THING}"),
]


def draw(key: Key, rng: Random) -> str:
    """Return a value of a key as one would type it, legal or not."""
    kind = rng.choices(("far", "edge", "typical"), (2, 3, 2))[0]
    if kind == "far":
        return rng.choice(FAR)
    if key.declared.choices and rng.random() < 0.8:
        return rng.choice(key.declared.choices)
    if key.element_type not in (int, float):
        return show(key.default)
    if not key.is_list:
        return _number(key, 0, kind, rng)
    low, high = key.declared.length
    length = rng.choice([low, low + 1, low if high is None else min(high, low + 4)])
    elements = [_number(key, position, "typical", rng) for position in range(length)]
    if kind == "edge" and elements:
        at = rng.randrange(length)
        elements[at] = _number(key, at, kind, rng)
    if rng.random() < 0.1:
        elements += elements
    if key.declared.ordered and rng.random() < 0.8:
        elements.sort(key=float)
    return f"[{', '.join(elements)}]"


def _number(key: Key, position: int, kind: str, rng: Random) -> str:
    ranges = key.declared.ranges or (Range(),)
    limits, is_integer = ranges[min(position, len(ranges) - 1)], key.element_type is int
    low = limits.low if limits.low is not None else -10
    high = limits.high if limits.high is not None else 1000
    if kind == "edge":
        ends = [end for end in (limits.low, limits.high) if end is not None] or [0]
        end = rng.choice(ends)
        near = [end - 1, end, end, end + 1] if is_integer else _around(end)
        return show(rng.choice(near))
    default = key.default[min(position, len(key.default) - 1)] if key.is_list else key.default
    if is_integer:
        small = rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
        return show(max(int(low), min(small, int(high))))
    if isinstance(default, (int, float)) and rng.random() < 0.4:
        return show(float(default))
    return show(low + (min(high, low + 1) - low) * rng.random())


def _around(end: float) -> list[float]:
    inside = [end + step * 10.0**power for step in (-1, 1) for power in (-6, -1)]
    return [float(end), math.nextafter(end, -math.inf), math.nextafter(end, math.inf), *inside]


def annotated(value: Any) -> str:
    """Return a value for a failure's message."""
    return ascii(value)
