"""Keys that were renamed: their former names are accepted, permanently in the `config.yaml` of a run.

Everywhere else (recipes, other files, `key=value` overrides) a former name is a warning.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

RENAMED = {
    "train.lockstep": "train.joint_students",
    "loss.normalisation": "loss.normalization",
    "data.max_bad_share": "data.max_bad_ratio",
}
"""The present names of keys by their former ones, all dotted."""

_REFERENCE = re.compile(rf"(?<!\\)\$\{{({'|'.join(map(re.escape, RENAMED))})\}}")


def current_name(name: str) -> str:
    """Return what a dotted key is called now."""
    return RENAMED.get(name, name)


def current_names(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return values by the present names of their dotted keys; of a key that is set twice, the last value."""
    return {current_name(name): value for name, value in values.items()}


def former_names(name: str) -> list[str]:
    """Return what a dotted key was called before."""
    return [former for former, current in RENAMED.items() if current == name]


def renamed_references(value: Any) -> list[str]:
    """Return the former names to which a value refers, as in `${train.lockstep}`."""
    if isinstance(value, str):
        return _REFERENCE.findall(value)
    if isinstance(value, list):
        return [name for element in value for name in renamed_references(element)]
    return []


def with_current_references(value: Any) -> Any:
    """Return a value whose references name the present keys: `${train.joint_students}`."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: f"${{{RENAMED[match[1]]}}}", value)
    if isinstance(value, list):
        return [with_current_references(element) for element in value]
    return value


@functools.cache
def warn(former: str, source: str) -> None:
    """Warn on stderr that a key was renamed, once in a process for each source.

    Args:
        former: the key's former name.
        source: where it was found: `'my.yaml'`, or `the command line`.
    """
    print(
        f"poa: warning: the key '{former}' in {source} is now '{RENAMED[former]}': the next version "
        f"will not accept the old name.",
        file=sys.stderr,
    )
