"""From text to values: YAML files and `key=value` overrides, read by the type of each key.

A value of a text key is that text: `1.10`, `on` and `/data/flat #2` are no numbers, truth values or comments.
So YAML's scalars are kept as they are written (`Scalar`) until the type of their key is known. `null` and
`${...}` keep their meaning; comments and quotes in a file are YAML's.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poa_plugin.config.fields import show
from poa_plugin.config.keys import Key
from poa_plugin.config.yaml_input import (
    Scalar,
    WrittenList,
    WrittenMapping,
    YAMLSyntaxError,
    parse_yaml,
)
from poa_plugin.errors import UserError

NULLS = ("null", "Null", "NULL", "~", "")
TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")
WHOLE = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|[0-9]+(_[0-9]+)*)")
DECIMAL = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)
LONGEST_NUMBER = 400
"""Characters."""
LARGEST_NUMBER = 10**300
"""Of a whole number; Python cannot compare ones that are much larger with others."""


class WrongValueError(ValueError):
    """A value that cannot be read; the message is the end of a sentence that names the key."""


class WrongTypeError(WrongValueError):
    """A value that is not of its key's type; the message is what may have been meant, or empty."""


def split_override(override: str) -> tuple[list[str], Scalar]:
    """Return the parts of the key, and the value, of `section.key=value`.

    Raises:
        UserError: it has not this form.
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{override}' is not of the form key=value, such as train.seed=1.")
    return re.sub(r"\[([^\[\].]+)\]", r".\1", key).split("."), Scalar.of(value, "override")


def path_override(key: str, path: Path) -> str:
    """Return the `key=value` override that sets a key to a path, whatever the path is called."""
    text = str(path)
    special = text in (*NULLS, "???") or text.startswith("~")
    return f"{key}={escape(f'./{text}' if special else text)}"


def escape(value: Any) -> Any:
    r"""Return a value whose texts OmegaConf resolves to what they are: `\${` for a `${` that is text."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, list):
        return [escape(element) for element in value]
    if isinstance(value, dict):
        return {name: escape(element) for name, element in value.items()}
    return value


def is_override(text: str) -> bool:
    """Return whether a command's argument is `key=value`; a path that has a `=` in it is not."""
    return re.match(r"[A-Za-z_][\w.\[\]]*=", text) is not None


def read_value(key: Key, raw: Any) -> Any:
    """Return the value of a key: a number, a text, a list, ..., or a text with a `${...}` in it.

    Args:
        key: whose type says how to read.
        raw: a `Scalar`, or a list or dictionary of them.

    Raises:
        WrongTypeError: it is not of the key's type.
        WrongValueError: it is null, or stands for nothing.
    """
    if isinstance(raw, Scalar):
        is_text = key.is_text and not key.is_list
        if _is_null(raw, is_text) and (key.optional or not is_text or raw != "~"):
            if not key.optional:
                here = "; a folder of this name is './null'" if key.declared.is_path else ""
                raise WrongValueError(f"it may not be null{here}")
            return None
        if key.is_list and raw.origin == "override" and not raw.startswith("${"):
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
            raise WrongTypeError
        return [_read((arguments or (Any,))[0], element) for element in raw]
    if isinstance(kind, type) and issubclass(kind, Enum):
        kind = str
    if kind in READERS:
        if kind in (str, Path) and isinstance(raw, (WrittenList, WrittenMapping)) and raw.source:
            raw = Scalar.of(raw.source, "quoted")
        if not isinstance(raw, Scalar):
            raise WrongTypeError
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
            number = int(text, 16 if "x" in text.lower() else 10)
            if abs(number) > LARGEST_NUMBER:
                raise WrongTypeError
            return number
        if DECIMAL.fullmatch(text) and float(text.replace("_", "")).is_integer():
            near = int(float(text.replace("_", "")))
            raise WrongTypeError(f"did you mean {near}?")
    raise WrongTypeError


def _decimal(raw: Scalar) -> float:
    text = raw.strip()
    if len(text) <= LONGEST_NUMBER:
        if SPECIAL.fullmatch(text):
            return float(text.replace(".", ""))
        if DECIMAL.fullmatch(text):
            return float(text.replace("_", ""))
        if WHOLE.fullmatch(text):
            return float(_whole(raw))
    raise WrongTypeError


def _truth(raw: Scalar) -> bool:
    text = raw.strip().lower()
    if text in TRUE or text in FALSE:
        return text in TRUE
    near = difflib.get_close_matches(text, (*TRUE, *FALSE), 1)
    raise WrongTypeError(f"did you mean {near[0]}?" if near else "")


READERS: dict[Any, Callable[[Scalar], Any]] = {
    str: _text,
    Path: _text,
    int: _whole,
    float: _decimal,
    bool: _truth,
}


def _is_null(raw: Scalar, is_text: bool) -> bool:
    """Return whether null was written; of a command's texts only the word itself is null."""
    if raw.origin == "override":
        return raw == "null" if is_text else raw.strip() in NULLS[:4]
    return raw.origin == "plain" and raw in NULLS


def _flow(raw: Scalar) -> Any:
    """Read a list in a command as YAML."""
    try:
        return parse_yaml(raw)
    except YAMLSyntaxError as error:
        raise WrongTypeError from error


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
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise WrongValueError(f"it cannot be read ({' '.join(str(error).split())})") from error
