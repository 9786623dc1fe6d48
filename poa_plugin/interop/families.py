"""What an importer has to know of a family of backbones; each family has a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from poa_plugin.config import Config
from poa_plugin.interop.layout import Entry


class Family:
    """One family of backbones, under its registered name.

    Attributes:
        name: the name in the backbones' registry, and of the section `student.<name>`.
        reasons: why keys that match a pattern cannot be used here, and must not be left out either.
        missing_reasons: why keys that match a pattern may be missing.
    """

    name: str
    reasons: Mapping[str, str]
    missing_reasons: Mapping[str, str]

    def recognises(self, names: Collection[str]) -> bool:
        """Tell whether the names of a backbone's parameters are of this family."""
        raise NotImplementedError

    def complete(self, backbone: dict[str, Entry], format_name: str) -> list[str]:
        """Put in what a format leaves out but says by leaving it out; return a line for each."""
        raise NotImplementedError

    def architecture(self, backbone: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the configuration that the tensors prove, by dotted keys."""
        raise NotImplementedError

    def choices(
        self, known: Mapping[str, Any], given: Mapping[str, Any], format_name: str
    ) -> dict[str, Any]:
        """Return values for what tensors do not tell, by dotted keys.

        Args:
            known: what `architecture` returned.
            given: what the user set.
            format_name: of the file.

        Raises:
            UserError: something has to be told by the user.
        """
        raise NotImplementedError

    def adapt(self, backbone: dict[str, Tensor], config: Config) -> list[str]:
        """Bring tensors to the image size of a configuration, in place; return a line for each."""
        raise NotImplementedError
