"""YAML as it is written: scalars without types, so that a text key gets the text that was typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from poa_plugin.errors import UserError

Origin = Literal["override", "plain", "quoted"]


class Scalar(str):
    """A scalar as it was written: an `override` of a command, or `plain` or `quoted` in YAML."""

    origin: Origin = "plain"

    @classmethod
    def of(cls, text: str, origin: Origin) -> Scalar:
        """Return a text with how it was written."""
        scalar = cls(text)
        scalar.origin = origin
        return scalar


class WrittenList(list[Any]):
    """A list with the text that it was written as, empty where that spans lines."""

    source = ""


class WrittenMapping(dict[str, Any]):
    """A mapping with the text that it was written as, empty where that spans lines."""

    source = ""


class YAMLSyntaxError(ValueError):
    """A text that is no YAML; the message says where."""


def read_file(path: Path) -> dict[str, Any]:
    """Return the tree of a YAML file; its leaves are `Scalar`.

    Raises:
        UserError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"The configuration file '{path}' is not UTF-8 text: {error}.") from error
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration file '{path}'.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"The configuration file '{path}' cannot be read: {reason}.") from error
    except YAMLSyntaxError as error:
        raise UserError(f"The configuration file '{path}' is not valid YAML: {error}.") from error
    if tree is None or tree == "":
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"The configuration file '{path}' must hold sections, not {_kind(tree)}.")
    return tree


def parse_yaml(content: str) -> Any:
    """Return the one document of a YAML text, its scalars as they are written.

    Raises:
        YAMLSyntaxError: it is not valid YAML.
    """
    try:
        loader = _Loader(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YAMLSyntaxError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise YAMLSyntaxError("it is nested too deeply") from error


def _kind(tree: Any) -> str:
    if isinstance(tree, dict):
        return "a section"
    return "a list" if isinstance(tree, list) else "a single value"


class _Loader(yaml.SafeLoader):
    """YAML without types: every scalar is a `Scalar`; only the merge key `<<` is told from others."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar_as_written(self, node: yaml.Node) -> Scalar:
        """Return a scalar with how it was written."""
        return Scalar.of(str(self.construct_scalar(node)), "quoted" if node.style else "plain")

    def construct_list_as_written(self, node: yaml.SequenceNode) -> Iterator[WrittenList]:
        """Yield a list, then fill it (so that it may hold itself)."""
        written = WrittenList()
        written.source = self.source(node)
        yield written
        written.extend(self.construct_sequence(node))

    def construct_mapping_as_written(self, node: yaml.MappingNode) -> Iterator[WrittenMapping]:
        """Yield a mapping, then fill it (so that it may hold itself)."""
        written = WrittenMapping()
        written.source = self.source(node)
        yield written
        written.update(self.construct_mapping(node))

    def source(self, node: yaml.Node) -> str:
        """Return the text of a `[...]` or `{...}` in one line, as it is written."""
        start, end = node.start_mark, node.end_mark
        if not node.flow_style or start.line != end.line:
            return ""
        return str(self.text[start.index : end.index])

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
_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.construct_list_as_written)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping_as_written)
