"""A configuration as YAML that reads back as the same: texts are quoted where YAML could misread them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf

from poa_plugin.config.values import escape

UNQUOTED = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
"""Texts that are written without quotes, if YAML does not take them for a truth value or null."""
RESERVED = {"y", "yes", "n", "no", "true", "false", "on", "off", "null"}


def to_yaml(config: DictConfig) -> str:
    """Return the resolved configuration as YAML, every default spelled out.

    Keys without a value, which backbones and loggers may have that are not chosen, are left out.
    """
    container = _with_value(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    return str(yaml.dump(escape(container), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _with_value(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    return {name: _with_value(value) for name, value in section.items() if value != MISSING}


class _Dumper(yaml.SafeDumper):
    """YAML of plain values."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every list out."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = UNQUOTED.fullmatch(text) and text.lower() not in RESERVED and text.strip(".")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)
_Dumper.add_multi_representer(Path, lambda dumper, path: _text(dumper, str(path)))
