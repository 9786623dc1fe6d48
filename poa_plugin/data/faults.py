"""Images that cannot be used: which they were, written down, and the end when they are too many."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from poa_plugin.data.names import printable
from poa_plugin.errors import UserError
from poa_plugin.files import append_line, disk_errors, read_lines, write_lines

SHOWN = 5


class BadImageNote(NamedTuple):
    """What a worker process reports of an image that it passed over."""

    name: str
    kind: str
    reason: str


class BadImages:
    """The distinct images that a run has passed over, one line each in `bad_images.jsonl`.

    The file outlives the process, so that a run which is resumed counts on.

    Args:
        run: the output folder; None writes nothing.
        n_images: of the data set.
        max_share: of them that may be bad (`data.max_bad_ratio`).
    """

    def __init__(self, run: Path | None, n_images: int, max_share: float) -> None:
        self.path = None if run is None else run / "bad_images.jsonl"
        self.n_images, self.max_share = n_images, max_share
        known = read_lines(self.path, "image", str) if self.path else []
        if self.path and self.path.is_file():  # without a line that a kill cut off
            with disk_errors(self.path.parent):
                write_lines(self.path, known)
        self.names = dict.fromkeys(str(record["image"]) for record in known)

    def note(self, found: Iterable[BadImageNote]) -> None:
        """Take in what a batch met.

        Raises:
            UserError: more of the images are bad than may be.
        """
        for image in found:
            if image.name in self.names:
                continue
            self.names[image.name] = None
            if self.path is not None:
                record = {"image": image.name, "kind": image.kind, "reason": image.reason}
                with disk_errors(self.path.parent):
                    append_line(self.path, record)
            if len(self.names) <= SHOWN:
                print(
                    f"\nThe image '{printable(image.name)}' is passed over ({image.kind}): {image.reason}."
                )
                sys.stdout.flush()
        if len(self.names) > self.max_share * self.n_images:
            shown = ", ".join(f"'{printable(name)}'" for name in list(self.names)[:SHOWN])
            more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
            raise UserError(
                f"{len(self.names)} of {self.n_images} images cannot be used, more than "
                f"data.max_bad_ratio={self.max_share} of them: {shown}{more}. Mend or remove them "
                f"('poa data check' lists them all), or allow more."
            )
