"""The formats that are read, which one a file is of, and what unites them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

Rule = Callable[[str], str]
"""From a name in a file to this package's name of the same parameter."""


@dataclass(frozen=True)
class Format:
    """How one code base names parameters.

    Args:
        name: what `--format` calls it.
        title: in sentences.
        recognises: tells from all names of a branch whether they are of this format.
        backbones: the rule for backbone parameters, for each family that can be read.
        head: the rule for the parameters of the projection heads, if the format has any.
    """

    name: str
    title: str
    recognises: Callable[[Collection[str]], bool]
    backbones: Mapping[str, Rule]
    head: Rule | None = None


def any_name(marks: str) -> Callable[[Collection[str]], bool]:
    """Return a `Format.recognises` that looks for a pattern in any of the names."""
    return lambda names: any(re.search(marks, name) for name in names)


def weight_norm_key(key: str) -> str:
    """Return the older names of a weight-normed layer's parameters, which this package uses."""
    key = key.replace("parametrizations.weight.original0", "weight_g")
    return key.replace("parametrizations.weight.original1", "weight_v")
