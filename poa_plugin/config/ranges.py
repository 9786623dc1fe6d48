"""Checks of values against the declarations of their keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from poa_plugin.config.fields import NOTHING, Range, show
from poa_plugin.config.keys import Key, type_name
from poa_plugin.config.values import shown
from poa_plugin.errors import did_you_mean
from poa_plugin.registry import BACKBONES, DATASETS, LOGGERS, LOSS_TERMS, META_ARCHS

REGISTRIES = {
    "backbones": ("backbone", BACKBONES),
    "data sets": ("data set", DATASETS),
    "meta-architectures": ("meta-architecture", META_ARCHS),
    "loggers": ("logger", LOGGERS),
    "loss terms": ("loss term", LOSS_TERMS),
}


def possible(key: Key) -> str:
    """Return what a key's values may be: `null, or a whole number from 1 to 1024`."""
    declared = key.declared
    if declared.choices:
        what = _alternatives(declared.choices)
    elif declared.registry:
        kind, registry = REGISTRIES[declared.registry]
        what = _alternatives(registry.names()) or f"names of {kind}s of your own"
        what = f"a list of {what}" if key.is_list else what
    else:
        what = "a path" if declared.is_path else type_name(key.element_type)
        limits = ", ".join(filter(None, map(str, declared.ranges)))
        what = _list_of(what, declared.length) if key.is_list else what
        what += "," if limits.startswith("at ") else ""
        what = " ".join(filter(None, (what, limits, declared.unit)))
    if declared.ordered:
        what += ", from low to high"
    return f"null, or {what}" if key.optional and key.type is not Any else what


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _list_of(what: str, length: tuple[int, int | None]) -> str:
    low, high = length
    if low == high:
        count = f"{low} "
    elif high is None:
        count = f"at least {low} " if low else ""
    else:
        count = f"{low} to {high} "
    plural = {"true or false": "truth values"}.get(what, what.removeprefix("a ") + "s")
    return f"a list of {count}{plural}"


def value_problem(key: Key, value: Any, written: Any = None) -> str | None:
    """Return a sentence if a value is not what its key allows, or None.

    Args:
        key: with its declaration.
        value: read and resolved.
        written: how it was written, for the sentence.
    """
    declared = key.declared
    seen = shown(value if written is None else written)
    subject = f"The key '{key.name}' is " + (f"'{seen}'" if isinstance(value, str) else seen)
    if value is None:
        return None
    elements = value if key.is_list else [value]
    if key.is_list and not _length_fits(len(elements), declared.length):
        return f"{subject}: it must be {possible(key)}."
    for position, element in enumerate(elements):
        if isinstance(element, str):
            problem = _problem_of_text(key, element)
        else:
            ranges = declared.ranges or (Range(),)
            problem = _problem_of_number(key, element, ranges[min(position, len(ranges) - 1)])
        if problem:
            return f"{subject}{problem}"
    if declared.ordered and list(elements) != sorted(elements):
        return f"{subject}: it must be {possible(key)}."
    return None


def _problem_of_text(key: Key, value: str) -> str | None:
    declared = key.declared
    if declared.registry:
        what, registry = REGISTRIES[declared.registry]
        if value not in registry:
            names = registry.names()
            return f", an unknown {what}: {did_you_mean(value, names)}."
    if declared.choices and value not in declared.choices:
        return f": {did_you_mean(value, declared.choices)}."
    if not value and not declared.may_be_empty:
        return ": it may not be empty."
    if declared.is_path and "\0" in value:
        return ": no path has a NUL character."
    return None


def _problem_of_number(key: Key, value: Any, limits: Range) -> str | None:
    for number in _numbers(value):
        is_finite = not isinstance(number, float) or math.isfinite(number)
        if not is_finite or (key.declared is not NOTHING and number not in limits):
            hint = ""
            if limits.high == 1 and 10 <= number <= 100 and number / 100 in limits:
                hint = f" (did you mean {show(number / 100)}?)"
            what = possible(key) if str(limits) else f"{possible(key)}, and finite"
            return f": it must be {what}{hint}."
    return None


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in a value, of whatever type its key is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for below in value.values():
            yield from _numbers(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _numbers(below)


def _length_fits(length: int, limits: tuple[int, int | None]) -> bool:
    return limits[0] <= length and (limits[1] is None or length <= limits[1])
