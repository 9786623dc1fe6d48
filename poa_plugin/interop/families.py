"""What an importer has to know of a family of backbones; each family has a file of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
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

    def recognizes(self, names: Collection[str]) -> bool:
        """Tell whether the names of a backbone's parameters are of this family."""
        raise NotImplementedError

    def is_buffer(self, name: str) -> bool:
        """Tell whether our name is of a tensor that is worked out, no parameter; none is unless told."""
        return False

    def told(self, buffers: Mapping[str, Entry], description: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration that a file tells beside its parameters, by dotted keys.

        Args:
            buffers: by our names; those of the backbone here must be the same, as they are left out.
            description: of the `config.json` beside the file, empty without one.

        Raises:
            UserError: they are of a network that the backbone here cannot be.
        """
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
            given: what the user set, over what `told` returned.
            format_name: of the file.

        Raises:
            UserError: something has to be told by the user.
        """
        raise NotImplementedError

    def adapt(self, backbone: dict[str, Tensor], config: Config) -> list[str]:
        """Bring tensors to the image size of a configuration, in place; return a line for each.

        Nothing is done unless told: most weights fit every size.
        """
        return []


def refuse_others(reasons: Mapping[str, str], names: Collection[str]) -> None:
    """Raise a `UserError` if names show a network that is another one in all its blocks."""
    for pattern, reason in reasons.items():
        found = [name for name in names if re.search(pattern, name)]
        if found:
            count = f", one of {len(found)} such keys," if len(found) > 1 else ""
            raise UserError(
                f"The file's backbone is another network: '{found[0]}'{count} is {reason}."
            )
