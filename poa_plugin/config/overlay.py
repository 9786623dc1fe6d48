"""Overlays: what a file and `key=value` overrides set, by the keys of the schema."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from poa_plugin.config.fields import NOTHING
from poa_plugin.config.keys import Key, Section
from poa_plugin.config.ranges import possible
from poa_plugin.config.recipes import is_run_recipe
from poa_plugin.config.renamed import (
    RENAMED,
    renamed_references,
    warn,
    with_current_references,
)
from poa_plugin.config.suggest import unknown_key
from poa_plugin.config.values import (
    WrongTypeError,
    WrongValueError,
    read_value,
    shown,
    split_override,
)
from poa_plugin.config.yaml_input import Scalar, YAMLSyntaxError, parse_yaml, read_file


@dataclass(frozen=True)
class Overlay:
    """Settings in their order: the parts of a key, or of a section, and what it is set to, unread.

    Attributes:
        settings: in their order.
        source: where they were written, for warnings.
        is_run: whether that is the `config.yaml` of a run, in which former names of keys are accepted.
    """

    settings: list[tuple[list[str], Any]]
    source: str = "the command line"
    is_run: bool = False


def from_file(path: Path) -> Overlay:
    """Return what a YAML file sets.

    Raises:
        UserError: it cannot be read, or is no YAML mapping.
    """
    return Overlay([([], read_file(path))], f"'{path}'", is_run_recipe(path))


def from_overrides(overrides: Sequence[str]) -> Overlay:
    """Return what `key=value` overrides set, the last one last.

    Raises:
        UserError: an override has another form.
    """
    return Overlay([split_override(override) for override in overrides])


def named_packages(overlays: Iterable[Overlay]) -> list[str]:
    """Return the packages that the key `imports` names in each overlay; what cannot be read is left out."""
    key, packages = Key("imports", list[str], False, [], NOTHING), []
    for overlay in overlays:
        raw = None
        for parts, value in overlay.settings:
            if parts == ["imports"]:
                raw = value
            elif not parts:
                raw = value.get("imports")
        try:
            value = read_value(key, raw) if raw is not None else []
            packages += list(OmegaConf.create({"imports": value}).imports)
        except (WrongValueError, OmegaConfBaseException):
            continue  # the same value is read again with all others, and named if it is wrong
    return packages


@dataclass
class UserConfig:
    """What overlays set.

    Attributes:
        raw: unread values by key.
        problems: sentences about what is no key.
        renamed: the former names of keys that were used.
    """

    raw: dict[str, Any]
    problems: list[str]
    renamed: list[str] = field(default_factory=list)


def gather(overlays: Iterable[Overlay], tree: Section) -> UserConfig:
    """Return what overlays set, the last one winning; warn of former names of keys.

    Args:
        overlays: the later over the earlier.
        tree: of all keys.
    """
    user_config = UserConfig({}, [])
    for overlay in overlays:
        for parts, raw in overlay.settings:
            _place(user_config, tree, tree, parts, raw)
        for name in () if overlay.is_run else user_config.renamed:
            warn(name, overlay.source)
        user_config.renamed.clear()
    return user_config


def assign(config: DictConfig, user_config: UserConfig, tree: Section) -> dict[str, str]:
    """Read values by the types of their keys and set them.

    Returns:
        A sentence for each key whose value cannot be read.
    """
    keys, problems = {key.name: key for key in tree.leaves()}, {}
    for name, raw in user_config.raw.items():
        try:
            value = read_value(keys[name], raw)
            OmegaConf.update(config, name, with_current_references(value))
        except WrongTypeError as error:
            hint = f" ({error})" if str(error) else ""
            allowed = possible(keys[name])
            problems[name] = f"The key '{name}' is {_quoted(raw)}: it must be {allowed}{hint}."
        except WrongValueError as error:
            problems[name] = f"The key '{name}' is {_quoted(raw)}: {error}."
        except GrammarParseError:
            problems[name] = f"The key '{name}' is {_quoted(raw)}: its '${{...}}' cannot be read."
        except OmegaConfBaseException as error:
            problems[name] = (
                f"The key '{name}' is {_quoted(raw)}: it must be {possible(keys[name])} "
                f"({str(error).splitlines()[0]})."
            )
    return problems


def _place(
    user_config: UserConfig, tree: Section, section: Section, parts: list[str], raw: Any
) -> None:
    """Note the value of a key, or of a section's keys, below a section."""
    if not parts:
        for name, below in _members(user_config, section, raw).items():
            _place(user_config, tree, section, [name], below)
        return
    name = ".".join(filter(None, (section.name, *parts)))
    member, rest = section.members.get(parts[0]), parts[1:]
    if isinstance(member, Section):
        _place(user_config, tree, member, rest, raw)
    elif name in RENAMED and parts == [name.rpartition(".")[2]]:
        user_config.renamed.append(name)
        _place(user_config, tree, tree, RENAMED[name].split("."), raw)
    elif member is None:
        user_config.problems.append(_unknown(user_config, tree, name, parts[0]))
    elif not rest:
        user_config.raw[member.name] = raw
        user_config.renamed += renamed_references(raw)
    elif typing.get_origin(member.type) is dict:
        for part in reversed(rest):
            raw = {part: raw}
        user_config.raw[member.name] = _merged(user_config.raw.get(member.name), raw)
    else:
        user_config.problems.append(
            f"The key '{member.name}' has no keys below it: set it whole, as in {member.name}=..., "
            f"in place of '{name}'."
        )


def _members(user_config: UserConfig, section: Section, raw: Any) -> dict[str, Any]:
    """Return what a section is set to, by the names of its members."""
    if isinstance(raw, Scalar) and raw.origin == "override":
        try:
            raw = parse_yaml(raw)
        except YAMLSyntaxError:
            raw = None
    if isinstance(raw, dict):
        return raw
    user_config.problems.append(
        f"The key '{section.name}' is a section: set one of {', '.join(section.members)}."
    )
    return {}


def _unknown(user_config: UserConfig, tree: Section, name: str, part: str) -> str:
    if "." in part:
        return (
            f"Unknown configuration key '{part}': in a file sections are nested, such as "
            f"{part.replace('.', ': {', 1)}: ...}}."
        )
    arch = user_config.raw.get("student.arch")
    return unknown_key(name, tree, str(arch) if arch else None)


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}


def _quoted(raw: Any) -> str:
    return f"'{shown(raw)}'" if isinstance(raw, str) else shown(raw)
