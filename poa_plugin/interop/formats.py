"""The formats that are read, which one a file is of, and what unites them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

Rule = Callable[[str], str]
"""From a name in a file to this package's name of the same parameter."""


def as_it_is(key: str, tensor: Tensor) -> Tensor:
    """Return a tensor unchanged: a `Format.convert` of formats whose channels are in our order."""
    return tensor


@dataclass(frozen=True)
class Format:
    """How one code base names parameters.

    Args:
        name: what `--format` calls it.
        title: in sentences.
        recognizes: tells from all names of a branch whether they are of this format.
        backbones: the rule for backbone parameters, for each family that can be read.
        head: the rule for the parameters of the projection heads, if the format has any.
        convert: from our name of a parameter and its tensor in a file, which may also be a moment of the
            optimizer, to our order of its channels.
    """

    name: str
    title: str
    recognizes: Callable[[Collection[str]], bool]
    backbones: Mapping[str, Rule]
    head: Rule | None = None
    convert: Callable[[str, Tensor], Tensor] = as_it_is


def any_name(marks: str) -> Callable[[Collection[str]], bool]:
    """Return a `Format.recognizes` that looks for a pattern in any of the names."""
    return lambda names: any(re.search(marks, name) for name in names)


def weight_norm_key(key: str) -> str:
    """Return the older names of a weight-normed layer's parameters, which this package uses."""
    key = key.replace("parametrizations.weight.original0", "weight_g")
    return key.replace("parametrizations.weight.original1", "weight_v")
