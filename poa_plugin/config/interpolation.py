"""`${...}` in values, and `~` in paths: replaced by what they stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    InterpolationValidationError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from poa_plugin.config.fields import Declaration
from poa_plugin.config.keys import Key, Section
from poa_plugin.config.ranges import possible
from poa_plugin.config.values import escape, shown

VARIABLE = re.compile(r"Environment variable '(.*)' not found")


def resolve_in_place(config: DictConfig, tree: Section) -> dict[str, str]:
    """Replace every `${...}` by the value that it stands for, and a leading `~` of a path by the home folder.

    Args:
        config: typed by the schema.
        tree: of all keys.

    Returns:
        A sentence for each key whose value cannot be resolved.
    """
    resolved, problems = {}, {}
    for key, raw in unresolved_values(config, tree):
        value, written = raw, f"'{shown(raw)}'" if isinstance(raw, str) else shown(raw)
        try:
            if "${" in str(raw):
                value = _plain(OmegaConf.select(config, key.name))
            expanded = _expand(value, key.declared)
        except (OmegaConfBaseException, RecursionError) as error:
            problems[key.name] = f"The key '{key.name}' is {written}: {_why(error, key)}."
        except _NoHomeError as error:
            problems[key.name] = f"The key '{key.name}' is {written}: {error}."
        else:
            if expanded is not raw:
                resolved[key.name] = expanded
    for name, value in resolved.items():
        OmegaConf.update(config, name, escape(value))
    return problems


def unresolved_values(config: DictConfig, tree: Section) -> Iterator[tuple[Key, Any]]:
    """Yield every key with its value as plain Python, `${...}` unresolved; `???` is a value that is missing."""
    container = OmegaConf.to_container(config)
    for key in tree.leaves():
        value: Any = container
        for part in key.name.split("."):
            value = value[part]
        yield key, value


def _plain(value: Any) -> Any:
    if isinstance(value, (ListConfig, DictConfig)):
        return OmegaConf.to_container(value, resolve=True)
    return value


class _NoHomeError(ValueError):
    """A `~user` that is nobody; the message is the end of a sentence."""


def _expand(value: Any, declared: Declaration) -> Any:
    if not (declared.is_path and isinstance(value, str) and value.startswith("~")) or "\0" in value:
        return value
    expanded = os.path.expanduser(value)  # noqa: PTH111 (a Path would lose a trailing slash)
    if expanded == value:
        user = value.partition("/")[0]
        raise _NoHomeError(
            f"there is no home folder '{user}'; a folder of this name here is './{value}'"
        )
    return expanded


def _why(error: BaseException, key: Key) -> str:
    """Return why a `${...}` cannot be resolved, as the end of a sentence."""
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if match := VARIABLE.search(message):
        return f"there is no environment variable '{match[1]}'"
    if isinstance(error, RecursionError) or "Recursive interpolation" in message:
        return "it refers to itself"
    if isinstance(error, InterpolationKeyError):
        name = message.removeprefix("Interpolation key ").removesuffix(" not found")
        return f"there is no key {name}"
    if isinstance(error, InterpolationToMissingValueError):
        return "it refers to a key that has no value"
    if isinstance(error, UnsupportedInterpolationType):
        kind = message.rpartition(" ")[2]
        return f"there is no resolver '{kind}'; an environment variable is ${{oc.env:NAME}}"
    if isinstance(error, InterpolationValidationError):
        return f"it must stand for {possible(key)} ({message.partition(': ')[2]})"
    return f"it cannot be resolved ({message.partition(': ')[2] or message})"
