"""timm's names, which are this package's own; a classifier has no counterpart here."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.interop.formats import Format


def sidecar(file: Path) -> Mapping[str, Any]:
    """Return the description in a `config.json` beside a timm file; empty where there is none.

    Raises:
        UserError: it is no JSON.
    """
    beside = file.parent / "config.json"
    if file.suffix != ".safetensors" or not beside.is_file():
        return {}
    try:
        description: Any = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"The file '{beside}' beside the weights is no JSON: {error}.") from error
    return description if isinstance(description, dict) else {}


def _recognizes(names: Collection[str]) -> bool:
    return all(name.startswith("backbone.") for name in names)


FORMAT = Format(
    name="timm",
    title="timm's format",
    recognizes=_recognizes,
    backbones={family: lambda key: key for family in ("vit", "swin", "resnet")},
)
