"""An extracted network's folder, opened for what is made of it."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from poa_plugin.errors import UserError
from poa_plugin.extraction.description import read_description
from poa_plugin.extraction.network import load, register_backbone
from poa_plugin.formats.description import (
    CROP_RATIO,
    HuggingFaceDescription,
    LibraryFormats,
    TimmDescription,
    formats_of,
)


@dataclass(frozen=True)
class Extracted:
    """A folder that `poa extract` wrote, and the section `poa` of its `config.json`."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.facts["network"])

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that the network was trained on."""
        return int(self.facts["image_size"])

    @property
    def resize_size(self) -> int:
        """The shorter side in pixels to which images are resized before the center crop.

        That of the run's evaluation where it crops to the network's own size; otherwise the crop is 0.875
        of it.
        """
        data = self.facts.get("data", {})
        if data.get("evaluation_crop_size") == self.image_size:
            return int(data["evaluation_resize_size"])
        return math.floor(self.image_size / CROP_RATIO)

    @property
    def crop_share(self) -> float:
        """The share of the resized side that the crop keeps, from which timm gets `resize_size` back.

        timm rounds the quotient of size and share down: half a pixel keeps it from falling one short.
        """
        if math.floor(self.image_size / CROP_RATIO) == self.resize_size:
            return CROP_RATIO
        return self.image_size / (self.resize_size + 0.5)

    @property
    def timm(self) -> TimmDescription:
        """How timm builds the network."""
        return self._formats.timm(self.facts["options"])

    @property
    def hugging_face(self) -> HuggingFaceDescription | None:
        """How a class of transformers' own builds the network."""
        return self._formats.hugging_face(self.facts["options"])

    @cached_property
    def network(self) -> nn.Module:
        """The ordinary network; see `load`."""
        return load(self.folder)

    @property
    def _formats(self) -> LibraryFormats:
        return formats_of(self.facts["backbone"])


def open_extracted(folder: str | Path) -> Extracted:
    """Open a folder that `poa extract` wrote.

    Raises:
        UserError: it is no extracted network, or of a version that did not record what is needed here.
    """
    folder = Path(folder)
    facts = read_description(folder)
    if "image_size" not in facts:
        raise UserError(
            f"'{folder}' was written by an earlier version, without its image size: extract it again."
        )
    register_backbone(folder, facts)
    return Extracted(folder, facts)


def optional(module: str, extra: str, what: str) -> ModuleType:
    """Import a package that only some uses need.

    Args:
        module: its name.
        extra: the extra of this package that installs it.
        what: begins the sentence that is raised if it is missing, such as `Building in timm`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise UserError(
            f"{what} needs the package {error.name}: pip install 'poa-plugin[{extra}]'."
        ) from error
