"""`poa export`: what all formats have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.export.card import CARD, Written, card
from poa_plugin.extraction.extracted import Extracted, open_extracted
from poa_plugin.folders import write_folder
from poa_plugin.registry import EXPORTERS

LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class Task:
    """What an exporter is given.

    Attributes:
        network: an opened folder.
        target: an empty folder, which gets its final name when the exporter has returned.
        image_size: the side in pixels that the user asked for; None leaves it to the format.
    """

    network: Extracted
    target: Path
    image_size: int | None = None

    def refuse_image_size(self, format_name: str) -> None:
        """Raise a `UserError` if an image size was asked for, for formats that do not take one."""
        if self.image_size is not None:
            raise UserError(
                f"The format '{format_name}' takes no --image-size: its files are for the network's own "
                f"{self.network.image_size} pixels."
            )


Exporter = Callable[[Task], Written]
"""Writes files, loads them back, compares, and says what it has written."""


def export(
    folder: str | Path,
    format_name: str,
    target: str | Path,
    license: str | None = None,
    image_size: int | None = None,
) -> list[str]:
    """Write an extracted network in another library's format, with a model card.

    The target is there only if the files were loaded back and give the network's features.

    Args:
        folder: what `poa extract` wrote.
        format_name: a name of `EXPORTERS`.
        target: a folder that is not there yet, or is empty.
        license: the identifier of the weights' license, for the card.
        image_size: for formats whose files are for one image size, that size in pixels.

    Returns:
        Sentences on what was written and compared.

    Raises:
        UserError: the folder is no extracted network, the format is unknown or cannot hold this network,
            what it needs is not installed, the target is not empty, or the features differ.
    """
    network, target = open_extracted(folder), Path(target)
    exporter: Exporter = EXPORTERS.get(format_name)
    if license is not None and not LICENSE.fullmatch(license):
        raise UserError(f"{license!r} is no license's identifier, such as apache-2.0 or cc-by-4.0.")
    if image_size is not None and image_size <= 0:
        raise UserError(f"The image size must be positive, not {image_size}.")
    network.network.eval()  # reads the weights, so that damaged ones are said to be before anything is written
    with write_folder(target) as partial:
        written = exporter(Task(network, partial, image_size))
        (partial / CARD).write_text(card(network, written, license), encoding="utf-8")
    return [*written.lines, f"Wrote '{target}'."]
