"""Reading a whole data set once, to know before a run what is in it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from rich.progress import track
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from poa_plugin.data.datasets import (
    Dataset,
    EncodedImages,
    NoSplitError,
    Split,
    UnreadableImageError,
)
from poa_plugin.data.decode import UNUSUAL, BadImageError
from poa_plugin.data.left_out import LeftOut
from poa_plugin.data.names import printable
from poa_plugin.data.reading import read_errors
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

SHOWN = 20
PATIENCE = 20
"""Images in a row, each tried several times, after which the check gives up."""
UNREADABLE = "unreadable"
"""The kind of an image that exists and cannot be read, such as without permission."""


class ImageCheck(NamedTuple):
    """The check of one image: its sides, or why it cannot be used."""

    height: int = 0
    width: int = 0
    name: str = ""
    kind: str = ""
    reason: str = ""


@dataclass
class SplitCheck:
    """The check of one split of a data set.

    Attributes:
        split: `train` or `test`.
        n_images: all of them.
        classes: names of classes and how many images each has; empty without labels.
        sides: of the images that can be used, (height, width).
        bad: by kind, the names and reasons of images that cannot be used.
        unusual: by kind, those that training converts (`data.unusual_images`).
        left_out: the files beside the images that are not used.
        notes, damaged: see `EncodedImages`.
    """

    split: str
    n_images: int
    classes: dict[str, int]
    sides: list[tuple[int, int]] = field(default_factory=list)
    bad: dict[str, list[ImageCheck]] = field(default_factory=lambda: defaultdict(list))
    unusual: dict[str, list[ImageCheck]] = field(default_factory=lambda: defaultdict(list))
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: Sequence[str] = ()
    damaged: Sequence[str] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every image can be used and no archive is damaged."""
        return not self.n_bad and not self.damaged

    @property
    def n_bad(self) -> int:
        """The number of images that cannot be used."""
        return sum(map(len, self.bad.values()))

    def text(self, max_ratio: float) -> str:
        """Return the check as text.

        Args:
            max_ratio: the ratio of bad images above which a run stops (`data.max_bad_ratio`).
        """
        messages = [f"{self.split}: {self.n_images} images"]
        if self.classes:
            counts = self.classes.values()
            each = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else f"{min(counts)}"
            messages[0] += f"; classes: {len(counts)}, images of each: {each}"
        for side, name in enumerate(("height", "width")):
            pixels = [sides[side] for sides in self.sides]
            if pixels:
                middle = statistics.median_low(pixels)
                messages.append(f"  {name} {min(pixels)} to {max(pixels)} pixels, median {middle}")
        for verb, kinds in (("converted", self.unusual), ("cannot be used", self.bad)):
            for kind, checks in sorted(kinds.items()):
                messages.append(f"  {kind}: {len(checks)} {verb}")
                named = [
                    f"{printable(check.name)}: {check.reason}" for check in checks if check.name
                ]
                messages += _examples(named, len(checks))
        for kind, n_files in sorted(self.left_out.counts.items()):
            messages.append(f"  {printable(kind)}: {n_files} left out")
            messages += _examples([*map(printable, self.left_out.examples[kind])], n_files)
        messages += [f"  {printable(text)}" for text in (*self.notes, *self.damaged)]
        ratio = self.n_bad / max(self.n_images, 1)
        verdict = "every image can be used"
        if UNREADABLE in self.bad:
            verdict = (
                f"{self.n_bad} of {self.n_images} images ({ratio:.2%}) cannot be used, and training stops at "
                f"one that cannot be read"
            )
        elif self.n_bad:
            verdict = (
                f"{self.n_bad} of {self.n_images} images ({ratio:.2%}) cannot be used; training "
                + (
                    "passes over them"
                    if ratio <= max_ratio
                    else "would stop: see data.max_bad_ratio"
                )
            )
        return "\n".join([*messages, f"  {verdict}"])


class _ImageChecks(TorchDataset[ImageCheck]):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ImageCheck:
        try:
            pixels = self.dataset.image(index)
        except UnreadableImageError as error:
            return ImageCheck(0, 0, error.name, UNREADABLE, error.reason.lstrip(":, "))
        except BadImageError as error:
            if error.kind not in UNUSUAL:
                return ImageCheck(0, 0, error.name, error.kind, error.reason)
            cast(EncodedImages, self.dataset).convert_unusual = True
            try:
                converted = self[index]
            finally:
                cast(EncodedImages, self.dataset).convert_unusual = False
            if converted.kind:
                return converted
            reason = f"{converted.width} x {converted.height} pixels"
            return ImageCheck(converted.height, converted.width, error.name, error.kind, reason)
        return ImageCheck(int(pixels.shape[-2]), int(pixels.shape[-1]))


def check_dataset(name: str, path: str | None, workers: int = 0) -> list[SplitCheck]:
    """Read every image of every split of a data set.

    Args:
        name: of a registered data set.
        path: where it is.
        workers: processes that read.

    Raises:
        UserError: the data set is unknown or does not exist.
    """
    build = DATASETS.get(name)
    checks: list[SplitCheck] = []
    missing: list[NoSplitError] = []
    splits = cast(Sequence[Split], ("train", "test"))
    for split in splits:
        try:
            with read_errors("data set", path or name):
                dataset = cast(Dataset, build(path, split, None))
        except NoSplitError as error:
            missing.append(error)
            continue
        if isinstance(dataset, EncodedImages):
            dataset.convert_unusual = False
        checks.append(_check_split(dataset, split, workers))
    if not checks:
        raise missing[0]
    return checks


def _check_split(dataset: Dataset, split: str, workers: int) -> SplitCheck:
    counts = dict.fromkeys(dataset.classes, 0)
    for label in dataset.labels or []:
        counts[dataset.classes[label]] += 1
    split_check = SplitCheck(split, len(dataset), counts if dataset.labels else {})
    if isinstance(dataset, EncodedImages):
        split_check.left_out, split_check.notes = dataset.left_out, dataset.notes
        split_check.damaged = dataset.damaged
    loader = DataLoader(_ImageChecks(dataset), batch_size=None, num_workers=workers)
    failed_in_a_row = 0
    for check in track(loader, description=split, total=len(dataset), transient=True):
        failed_in_a_row = failed_in_a_row + 1 if check.reason.startswith("in ") else 0
        if failed_in_a_row == PATIENCE:
            raise UserError(
                f"{PATIENCE} images in a row could not be read, the last of them '{printable(check.name)}' "
                f"({check.reason}): the disk, or the connection to it, seems to be broken."
            )
        if check.height:
            split_check.sides.append((check.height, check.width))
        if check.kind:
            kinds = split_check.unusual if check.kind in UNUSUAL else split_check.bad
            kinds[check.kind].append(check)
    return split_check


def _examples(names: Sequence[str], n: int) -> list[str]:
    """Return messages with the first of n names."""
    shown = [f"    {name}" for name in names[:SHOWN]]
    return [*shown, f"    and {n - len(shown)} more"] if shown and n > len(shown) else shown
