"""Images that cannot be used: recorded, and an error when there are too many."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from poa_plugin import ranks
from poa_plugin.data.names import printable
from poa_plugin.errors import UserError
from poa_plugin.files import append_record, disk_errors, read_records, write_records

SHOWN = 5


class BadImageNote(NamedTuple):
    """What a worker process reports about an image that it skipped."""

    name: str
    kind: str
    reason: str


class BadImages:
    """The distinct images that a run has skipped, one line each in `bad_images.jsonl`.

    The file outlives the process, so that a resumed run continues the count. Every rank counts the images of
    all (`exchange`); rank 0 writes and prints them.

    Args:
        run: the output folder; None writes nothing.
        n_images: of the data set.
        max_ratio: the part of them that may be bad (`data.max_bad_ratio`).
    """

    def __init__(self, run: Path | None, n_images: int, max_ratio: float) -> None:
        path = None if run is None else run / "bad_images.jsonl"
        self.n_images, self.max_ratio = n_images, max_ratio
        records = read_records(path, "image", str) if path else []
        self.path = path if ranks.is_first() else None
        if self.path and self.path.is_file():  # without a line that a kill cut off
            with disk_errors(self.path.parent):
                write_records(self.path, records)
        self.names = dict.fromkeys(str(record["image"]) for record in records)

    def exchange(self, bad_images: Sequence[BadImageNote]) -> None:
        """Record the bad images of all ranks; called by all of them in the same step.

        Raises:
            UserError: see `note`.
        """
        for of_rank in ranks.gathered_objects(list(bad_images)):
            self.note(of_rank)

    def note(self, bad_images: Iterable[BadImageNote]) -> None:
        """Record the bad images of a batch.

        Raises:
            UserError: more of the images are bad than allowed.
        """
        for image in bad_images:
            if image.name in self.names:
                continue
            self.names[image.name] = None
            if self.path is not None:
                record = {"image": image.name, "kind": image.kind, "reason": image.reason}
                with disk_errors(self.path.parent):
                    append_record(self.path, record)
            if len(self.names) <= SHOWN and ranks.is_first():
                print(
                    f"\nThe image '{printable(image.name)}' is skipped ({image.kind}): {image.reason}."
                )
                sys.stdout.flush()
        if len(self.names) > self.max_ratio * self.n_images:
            shown = ", ".join(f"'{printable(name)}'" for name in list(self.names)[:SHOWN])
            more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
            raise UserError(
                f"{len(self.names)} of {self.n_images} images cannot be used, more than "
                f"data.max_bad_ratio={self.max_ratio} of them: {shown}{more}. Fix or remove them "
                f"('poa data check' lists them all), or allow more."
            )
