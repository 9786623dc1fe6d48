"""The description of an extracted network: the section `poa` of its `config.json`, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.files import read_json

CONFIG = "config.json"
REQUIRED: dict[str, type] = {
    "backbone": str,
    "network": str,
    "width": int,
    "depth": int,
    "features": int,
    "options": dict,
    "params": int,
    "flops": int,
}
OPTIONAL: dict[str, type] = {
    "version": str,
    "image_size": int,
    "imports": list,
    "branch": str,
    "step": int,
    "heads": dict,
    "run": dict,
    "data": dict,
    "results": list,
}
"""Keys and the types of their values; the second are missing in what earlier versions wrote."""


def read_description(folder: Path) -> dict[str, Any]:
    """Return the section `poa` of an extracted network's `config.json`.

    Raises:
        UserError: the folder is no extracted network, or its file is damaged.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"'{folder}' is no extracted network: there is no {CONFIG}.")
    content = read_json(file)
    description = content.get("poa") if isinstance(content, dict) else None
    if not isinstance(description, dict):
        raise UserError(f"'{file}' was not written by 'poa extract': it has no 'poa' section.")
    missing = [key for key in REQUIRED if key not in description]
    if missing:
        raise UserError(f"'{file}' is damaged: its 'poa' section has no {', no '.join(missing)}.")
    for key, kind in {**REQUIRED, **OPTIONAL}.items():
        value = description.get(key)
        if key in description and type(value) is not kind:
            raise UserError(
                f"'{file}' is damaged: '{key}' is {str(value)[:40]!r}, not of type {kind.__name__}."
            )
    if not all(isinstance(package, str) and package for package in description.get("imports", [])):
        raise UserError(f"'{file}' is damaged: 'imports' is no list of packages.")
    return description
