"""How a key of the configuration is declared: default, range or choices, unit, and what it means.

A declaration is kept in the metadata of a dataclass field. `config.ranges` checks values against it, and
`poa config` and `docs/configuration.md` print it. The `Options` of a backbone in another package declare their
fields with the same functions; a field without a declaration only has its type checked, and `nan` and `inf` are
refused. Imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

COUNT = 10**9
"""The most steps, epochs or files that a key counts."""
METADATA = "poa"
"""The entry of a field's metadata that holds its `Declaration`."""


@dataclass(frozen=True)
class Range:
    """The numbers between two ends. None is no end; an open end does not belong to the range."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, number: float) -> bool:
        above = self.low is None or (number > self.low if self.low_open else number >= self.low)
        below = self.high is None or (number < self.high if self.high_open else number <= self.high)
        return above and below

    def __str__(self) -> str:
        """Return `from 0 to 1`, `above 0 and at most 10`, `at least 1`, or nothing without ends."""
        if not (self.low is None or self.high is None or self.low_open or self.high_open):
            return f"from {show(self.low)} to {show(self.high)}"
        ends = []
        if self.low is not None:
            ends.append(f"{'above' if self.low_open else 'at least'} {show(self.low)}")
        if self.high is not None:
            ends.append(f"{'below' if self.high_open else 'at most'} {show(self.high)}")
        return " and ".join(ends)


@dataclass(frozen=True)
class Declaration:
    """What is known of a key beside its type and its default.

    Attributes:
        meaning: one line for people.
        ranges: of a number, or of each element of a list; several, where each position has its own.
        length: the least and the most elements of a list; None is no end.
        ordered: whether the elements of a list may not fall.
        choices: the texts that are possible; empty where any is.
        registry: the registry whose names are possible, such as `backbones`.
        is_path: whether the text is a path, in which a leading `~` is the home folder.
        may_be_empty: whether the empty text makes sense.
        unit: of numbers, such as `pixels`.
        synonyms: other names under which people look for the key, such as `lr`.
    """

    meaning: str = ""
    ranges: tuple[Range, ...] = ()
    length: tuple[int, int | None] = (0, None)
    ordered: bool = False
    choices: tuple[str, ...] = ()
    registry: str = ""
    is_path: bool = False
    may_be_empty: bool = True
    unit: str = ""
    synonyms: tuple[str, ...] = ()


NOTHING = Declaration()
"""The declaration of a field that has none."""


def number(
    default: Any,
    meaning: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    unit: str = "",
    synonyms: Sequence[str] = (),
) -> Any:
    """Declare a number; whether it is whole, or may be null, is its annotation's affair.

    Args:
        default: of the field.
        meaning: one line for people.
        above, at_least, below, at_most: the ends of its range; without any it must be finite.
        unit: such as `pixels`.
        synonyms: other names under which people look for it.
    """
    limits = _range(above, at_least, below, at_most)
    return _field(default, meaning, ranges=(limits,), unit=unit, synonyms=tuple(synonyms))


def numbers(
    default: Sequence[float],
    meaning: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | Sequence[float] | None = None,
    length: int | tuple[int, int | None] = (0, None),
    ordered: bool = False,
    unit: str = "",
    synonyms: Sequence[str] = (),
) -> Any:
    """Declare a list of numbers.

    Args:
        default: of the field.
        meaning: one line for people.
        above, at_least, below, at_most: the ends of the range of each element; `at_most` may be a list, with
            an end for each position.
        length: how many elements, or the least and the most.
        ordered: whether the elements may not fall.
        unit: of each element.
        synonyms: other names under which people look for it.
    """
    ends = at_most if isinstance(at_most, Sequence) else [at_most]
    return _field(
        list(default),
        meaning,
        ranges=tuple(_range(above, at_least, below, end) for end in ends),
        length=(length, length) if isinstance(length, int) else length,
        ordered=ordered,
        unit=unit,
        synonyms=tuple(synonyms),
    )


def switch(default: bool, meaning: str, *, synonyms: Sequence[str] = ()) -> Any:
    """Declare a truth value."""
    return _field(default, meaning, synonyms=tuple(synonyms))


def choice(
    default: str, choices: Sequence[str], meaning: str, *, synonyms: Sequence[str] = ()
) -> Any:
    """Declare a text that is one of several."""
    return _field(default, meaning, choices=tuple(choices), synonyms=tuple(synonyms))


def text(
    default: Any,
    meaning: str,
    *,
    registry: str = "",
    may_be_empty: bool = True,
    synonyms: Sequence[str] = (),
) -> Any:
    """Declare a text, or a list of texts if the default is a list; see `Declaration`."""
    return _field(
        default,
        meaning,
        registry=registry,
        may_be_empty=may_be_empty,
        synonyms=tuple(synonyms),
    )


def mapping(meaning: str, *, synonyms: Sequence[str] = ()) -> Any:
    """Declare texts by name, none by default; the field's annotation is `dict[str, str]`."""
    return _field({}, meaning, synonyms=tuple(synonyms))


def path(default: Any, meaning: str, *, synonyms: Sequence[str] = ()) -> Any:
    """Declare a path: never empty, and a leading `~` or `~user` is that home folder."""
    return _field(default, meaning, is_path=True, may_be_empty=False, synonyms=tuple(synonyms))


def declaration(metadata: Mapping[Any, Any]) -> Declaration:
    """Return what a field's metadata declare; `NOTHING` where they declare nothing."""
    declared = metadata.get(METADATA, NOTHING)
    return declared if isinstance(declared, Declaration) else NOTHING


def show(value: Any) -> str:
    """Return a value as one would type it: `0.0001`, `null`, `true`, `[1, 2]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {show(below)}' for name, below in value.items())}}}"
    return str(value)


def _range(above: float | None, at_least: float | None, below: float | None, at_most: Any) -> Range:
    if (above is not None and at_least is not None) or (below is not None and at_most is not None):
        raise ValueError("A range has one lower and one upper end.")
    low, high = (above if at_least is None else at_least), (below if at_most is None else at_most)
    return Range(low, high, above is not None, below is not None)


def _field(default: Any, meaning: str, **declared: Any) -> Any:
    metadata = {METADATA: Declaration(meaning, **declared)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)
