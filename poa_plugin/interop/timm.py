"""timm's names, which are this package's own; a classifier has no counterpart here."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from poa_plugin.errors import UserError
from poa_plugin.interop.formats import Format


def sidecar_head_dim(file: Path) -> int | None:
    """Return the width of an attention head that a `config.json` beside a timm file tells, if one does."""
    beside = file.parent / "config.json"
    if file.suffix != ".safetensors" or not beside.is_file():
        return None
    try:
        description: Any = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"The file '{beside}' beside the weights is no JSON: {error}.") from error
    arguments = description.get("model_args", {}) if isinstance(description, dict) else {}
    width, heads = arguments.get("embed_dim"), arguments.get("num_heads")
    return width // heads if width and heads else None


def _recognises(names: Collection[str]) -> bool:
    return all(name.startswith("backbone.") for name in names)


FORMAT = Format(
    name="timm",
    title="timm's format",
    recognises=_recognises,
    backbones={"vit": lambda key: key},
)
