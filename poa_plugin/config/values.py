"""From text to values: YAML files and `key=value` words, read by the type of each key.

A value of a text key is that text: `1.10`, `on` and `/data/flat #2` are no numbers, truth values or comments.
So YAML's scalars are kept as they are written (`Scalar`) until the type of their key is known. `null` and
`${...}` keep their meaning; comments and quotes in a file are YAML's.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poa_plugin.config.fields import show
from poa_plugin.config.keys import Key, type_name
from poa_plugin.errors import UserError

NULLS = ("null", "Null", "NULL", "~", "")
TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")
WHOLE = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|[0-9]+(_[0-9]+)*)")
DECIMAL = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)
LONGEST_NUMBER = 400
"""Characters."""

Origin = Literal["word", "plain", "quoted"]


class Scalar(str):
    """A scalar as it was written: a `word` of a command, or `plain` or `quoted` in YAML."""

    origin: Origin = "plain"

    @classmethod
    def of(cls, text: str, origin: Origin) -> Scalar:
        """Return a text with how it was written."""
        scalar = cls(text)
        scalar.origin = origin
        return scalar


class WrongValueError(ValueError):
    """A value that cannot be read; the message is the end of a sentence that names the key."""


def read_file(path: Path) -> dict[str, Any]:
    """Return the tree of a YAML file; its leaves are `Scalar`.

    Raises:
        UserError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        tree = parse_yaml(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration file '{path}'.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"The configuration file '{path}' cannot be read: {reason}.") from error
    except WrongValueError as error:
        raise UserError(f"The configuration file '{path}' is not valid YAML: {error}.") from error
    if tree is None or tree == "":
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"The configuration file '{path}' must hold sections, not {_kind(tree)}.")
    return tree


def parse_yaml(content: bytes | str) -> Any:
    """Return the one document of a YAML text, its scalars as they are written.

    Raises:
        WrongValueError: it is not valid YAML.
    """
    try:
        return yaml.load(content, Loader=_Loader)
    except yaml.YAMLError as error:
        raise WrongValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise WrongValueError("it is nested too deeply") from error


def split_word(word: str) -> tuple[list[str], Scalar]:
    """Return the parts of the key, and the value, of `section.key=value`.

    Raises:
        UserError: it has not this form.
    """
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{word}' is not of the form key=value, such as train.seed=1.")
    return re.sub(r"\[([^\[\].]+)\]", r".\1", key).split("."), Scalar.of(value, "word")


def is_word(text: str) -> bool:
    """Return whether a command's argument is `key=value`; a path that has a `=` in it is not."""
    return re.match(r"[A-Za-z_][\w.\[\]]*=", text) is not None


def read_value(key: Key, raw: Any) -> Any:
    """Return the value of a key: a number, a text, a list, ..., or a text with a `${...}` in it.

    Args:
        key: whose type says how to read.
        raw: a `Scalar`, or a list or dictionary of them.

    Raises:
        WrongValueError: it is none of the key's type.
    """
    if isinstance(raw, Scalar):
        if _is_null(raw, key.is_text and not key.is_list):
            if not key.optional:
                here = "; a folder of this name is './null'" if key.declared.is_path else ""
                raise WrongValueError(f"it may not be null{here}")
            return None
        if key.is_list and raw.origin == "word" and not raw.startswith("${"):
            raw = _flow(raw)
    return _read(key.type, raw)


def shown(raw: Any) -> str:
    """Return a value as it was given, for a message: on one line, and shortened if it is long."""
    if isinstance(raw, Scalar) or not isinstance(raw, (list, dict, str)):
        text = f"{raw}" if isinstance(raw, str) else show(raw)
    else:
        text = show(raw)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def _read(kind: Any, raw: Any) -> Any:
    arguments = typing.get_args(kind)
    if kind is list or typing.get_origin(kind) in (list, tuple):
        if isinstance(raw, Scalar) and "${" in raw:
            return str(raw)
        if not isinstance(raw, list):
            raise WrongValueError("it must be a list, such as [a, b]")
        return [_read((arguments or (Any,))[0], element) for element in raw]
    if isinstance(kind, type) and issubclass(kind, Enum):
        kind = str
    if kind in READERS:
        if not isinstance(raw, Scalar):
            raise WrongValueError(f"it must be {type_name(kind)}, not {_kind(raw)}")
        return str(raw) if "${" in raw else READERS[kind](raw)
    if typing.get_origin(kind) is dict and len(arguments) == 2 and isinstance(raw, dict):
        return {name: _read(arguments[1], value) for name, value in raw.items()}
    return _untyped(raw)


def _text(raw: Scalar) -> str:
    if raw == "???":
        raise WrongValueError(
            "'???' stands for a value that is missing; a file of this name is './???'"
        )
    return str(raw)


def _whole(raw: Scalar) -> int:
    text = raw.strip()
    if len(text) <= LONGEST_NUMBER:
        if WHOLE.fullmatch(text):
            return int(text, 16 if "x" in text.lower() else 10)
        if DECIMAL.fullmatch(text) and float(text.replace("_", "")).is_integer():
            near = int(float(text.replace("_", "")))
            raise WrongValueError(f"it must be a whole number: did you mean {near}?")
    raise WrongValueError("it must be a whole number")


def _decimal(raw: Scalar) -> float:
    text = raw.strip()
    if len(text) <= LONGEST_NUMBER:
        if SPECIAL.fullmatch(text):
            return float(text.replace(".", ""))
        if DECIMAL.fullmatch(text):
            return float(text.replace("_", ""))
        if WHOLE.fullmatch(text):
            return float(_whole(raw))
    raise WrongValueError("it must be a number")


def _truth(raw: Scalar) -> bool:
    text = raw.strip().lower()
    if text in TRUE or text in FALSE:
        return text in TRUE
    raise WrongValueError("it must be true or false")


READERS: dict[Any, Callable[[Scalar], Any]] = {
    str: _text,
    Path: _text,
    int: _whole,
    float: _decimal,
    bool: _truth,
}


def _is_null(raw: Scalar, is_text: bool) -> bool:
    """Return whether null was written; of a command's texts only the word itself is null."""
    if raw.origin == "word":
        return raw == "null" if is_text else raw.strip() in NULLS[:4]
    return raw.origin == "plain" and raw in NULLS


def _flow(raw: Scalar) -> Any:
    """Read a list in a command as YAML."""
    try:
        return parse_yaml(raw)
    except WrongValueError as error:
        raise WrongValueError("it must be a list, such as [a, b]") from error


def _untyped(raw: Any) -> Any:
    """Return what YAML makes of a value whose key has no simple type."""
    if isinstance(raw, list):
        return [_untyped(element) for element in raw]
    if isinstance(raw, dict):
        return {name: _untyped(value) for name, value in raw.items()}
    if raw.origin == "quoted" or "${" in raw:
        return str(raw)
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))
        return cast(dict[str, Any], read)["value"]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise WrongValueError(" ".join(str(error).split())) from error


def _kind(tree: Any) -> str:
    if isinstance(tree, dict):
        return "a section"
    return "a list" if isinstance(tree, list) else "a single value"


class _Loader(yaml.SafeLoader):
    """YAML without types: every scalar is a `Scalar`; only the merge key `<<` is told from others."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar_as_written(self, node: yaml.Node) -> Scalar:
        """Return a scalar with how it was written."""
        return Scalar.of(str(self.construct_scalar(node)), "quoted" if node.style else "plain")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping whose keys are texts, none of them twice."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a text", name.start_mark)
            if name.value in names:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key '{name.value}' is there twice", name.start_mark
                )
            names.add(name.value)
        return node


for _tag in ("str", "int", "float", "bool", "null", "timestamp", "merge"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_scalar_as_written)
