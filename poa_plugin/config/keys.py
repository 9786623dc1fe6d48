"""The keys of a configuration as a tree: sections, and keys with type, default and declaration.

The tree is made of the schema and of the `Options` of every registered backbone and logger.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from omegaconf import MISSING, DictConfig, OmegaConf

from poa_plugin.config.fields import Declaration, declaration
from poa_plugin.config.schema import Config, LoggerOptionsConfig, StudentConfig
from poa_plugin.errors import UserError
from poa_plugin.plugins import leave_out
from poa_plugin.registry import BACKBONES, LOGGERS, PLUGINS, Registry


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: dotted, such as `optim.base_lr`.
        type: of its value, less the None of an optional key.
        optional: whether its value may be null.
        default: of the field; `???` where it has none.
        declared: range, choices and meaning.
    """

    name: str
    type: Any
    optional: bool
    default: Any
    declared: Declaration

    @property
    def is_list(self) -> bool:
        """Whether its value is a list."""
        return self.type is list or typing.get_origin(self.type) in (list, tuple)

    @property
    def element_type(self) -> Any:
        """The type of its value, or of the elements of a list."""
        if not self.is_list:
            return self.type
        return (typing.get_args(self.type) or (Any,))[0]

    @property
    def is_text(self) -> bool:
        """Whether its value, or each element of it, is a text."""
        return self.element_type in (str, Path)


@dataclass(frozen=True)
class Section:
    """A section: its dotted name (empty: the whole configuration), its dataclass, and what it holds by name."""

    name: str
    type: type
    members: dict[str, Key | Section] = field(hash=False)

    @property
    def meaning(self) -> str:
        """The docstring of its dataclass."""
        text = inspect.getdoc(self.type) or ""
        return "" if text.startswith(f"{self.type.__name__}(") else text

    def leaves(self) -> Iterator[Key]:
        """Yield all keys, those of sections within it too."""
        for member in self.members.values():
            if isinstance(member, Section):
                yield from member.leaves()
            else:
                yield member

    def sections(self) -> Iterator[Section]:
        """Yield the section and all sections within it."""
        yield self
        for member in self.members.values():
            if isinstance(member, Section):
                yield from member.sections()


def all_keys() -> Section:
    """Return the tree of every key, with a section for each registered backbone and each logger with options.

    Raises:
        UserError: the `Options` of a backbone or a logger cannot be a section.
    """
    import poa_plugin.builtin  # noqa: F401  (registers what the package ships)

    loggers = _sections("logger", LOGGERS, optional=True)
    return _tree(_sections("backbone", BACKBONES), loggers)


def section_of(schema: type, name: str) -> Section:
    """Return the tree of a dataclass that stands beside the configuration, such as a profile's."""
    return Section(name, schema, _members(schema, f"{name}."))


def new_config(tree: Section) -> DictConfig:
    """Return the typed configuration of a tree, all values at their defaults, in struct mode."""
    train = typing.cast(Section, tree.members["train"])
    loggers = typing.cast(Section, train.members["logger_options"])
    return copy.deepcopy(_template(tree.members["student"].type, loggers.type))


@functools.lru_cache(maxsize=8)
def _template(student: type, loggers: type) -> DictConfig:
    config = OmegaConf.structured(Config)
    config.student = OmegaConf.structured(student)
    config.train.logger_options = OmegaConf.structured(loggers)
    return typing.cast(DictConfig, config)


def type_name(kind: Any) -> str:
    """Return what a value of a type is called: `a whole number`."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(kind, "a text" if kind is Path else str(getattr(kind, "__name__", kind)))


@functools.lru_cache(maxsize=8)
def _tree(
    backbones: tuple[tuple[str, type], ...], loggers: tuple[tuple[str, type], ...]
) -> Section:
    members = _members(Config, "")
    members["student"] = _section("student", StudentConfig, backbones)
    train = typing.cast(Section, members["train"])
    name = "logger_options"
    train.members[name] = _section(f"train.{name}", LoggerOptionsConfig, loggers)
    return Section("", Config, members)


def _section(name: str, base: type, below: tuple[tuple[str, type], ...]) -> Section:
    """Return a section that has, beside the keys of a dataclass, sections by name."""
    fields = [
        (part, options, field(default_factory=functools.partial(OmegaConf.structured, options)))
        for part, options in below
    ]
    joined = dataclasses.make_dataclass(base.__name__.removesuffix("Config"), fields, bases=(base,))
    joined.__doc__ = base.__doc__
    return Section(name, joined, _members(joined, f"{name}."))


def _members(schema: type, prefix: str) -> dict[str, Key | Section]:
    hints = typing.get_type_hints(schema)
    members: dict[str, Key | Section] = {}
    for entry in dataclasses.fields(schema):
        name, (kind, optional) = f"{prefix}{entry.name}", _without_none(hints[entry.name])
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and not optional:
            members[entry.name] = Section(name, kind, _members(kind, f"{name}."))
        else:
            declared = declaration(entry.metadata)
            members[entry.name] = Key(name, kind, optional, _default(entry), declared)
    return members


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return MISSING if entry.default is dataclasses.MISSING else entry.default


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was part of it."""
    if hint is Any:
        return hint, True
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = typing.get_args(hint)
    rest = tuple(kind for kind in kinds if kind is not type(None))
    return Union[rest], len(rest) < len(kinds)  # noqa: UP007 (made at run time)


def _sections(
    kind: str, registry: Registry, optional: bool = False
) -> tuple[tuple[str, type], ...]:
    """Return the `Options` of what is registered, by name, having tried whether they can be sections.

    A plugin's that cannot are left out with the plugin, which stops no command.

    Args:
        kind: of what is registered, for messages.
        registry: of classes.
        optional: whether a class may have none.
    """
    sections = []
    for name in registry.names():
        options = getattr(registry.get(name), "Options", None)
        if options is None and optional:
            continue
        try:
            sections.append((name, _checked(kind, name, options)))
        except UserError as error:
            package = registry.package_of(name)
            if package not in PLUGINS:
                raise
            leave_out(package, str(error).rstrip("."))
            return _sections(kind, registry, optional)
    return tuple(sections)


@functools.lru_cache(maxsize=64)
def _checked(kind: str, name: str, options: Any) -> type:
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise UserError(
            f"The {kind} '{name}' needs a dataclass 'Options', its section of the configuration."
        )
    try:
        typing.get_type_hints(options)
        OmegaConf.structured(options)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The options of the {kind} '{name}', {options.__module__}.{options.__qualname__}, cannot be "
            f"a section of the configuration: {type(error).__name__}: {reason}."
        ) from error
    return options
