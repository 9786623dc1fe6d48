"""Files among images that are not used: counted, and reported once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from poa_plugin.data.names import printable

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the files that are used from folders and shards, as in torchvision and DINOv2, in any case.

Not all that Pillow can decode: that depends on how Pillow was built; the images of a data set must not.
"""
NO_IMAGES = frozenset((
    ".bak", ".bib", ".bin", ".cfg", ".cls", ".conf", ".crc", ".csv", ".db", ".doc", ".docx", ".htm", ".html",
    ".index", ".info", ".ini", ".ipynb", ".json", ".jsonl", ".lnk", ".lock", ".log", ".lst", ".mat", ".md",
    ".md5", ".meta", ".npy", ".npz", ".pickle", ".pkl", ".proto", ".pt", ".pth", ".py", ".rst", ".sha1",
    ".sha256", ".sh", ".toml", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
))  # fmt: skip
"""Endings of files that often lie beside images, and are skipped silently."""
NO_ENDING = "no ending"
NAMES_WITHOUT_ENDING = frozenset(
    ("authors", "changelog", "checksums", "copying", "license", "licence", "makefile", "md5sum", "md5sums",
     "notice", "readme", "sha256sum", "sha256sums", "version")
)  # fmt: skip
SHOWN, KINDS_SHOWN = 5, 8


class LeftOut:
    """How many files of which kind are left out, with the names of the first few of each.

    Attributes:
        counts: by kind, which is an ending such as `.heic`, or a phrase.
        examples: by kind, up to five names.
    """

    def __init__(
        self,
        counts: Mapping[str, int] | None = None,
        examples: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.counts = Counter(counts or {})
        self.examples: dict[str, list[str]] = {k: list(v) for k, v in (examples or {}).items()}

    def add(self, kind: str, name: str) -> None:
        """Count a file."""
        self.counts[kind] += 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(name)

    def add_file(self, name: str, path: str = "") -> None:
        """Count a file that has no image's ending, unless it is hidden or something that is no image.

        Args:
            name: of the file alone.
            path: what it is shown as, if not by its name.
        """
        stem, dot, end = name.rpartition(".")
        kind = f".{end.lower()}" if dot and stem else NO_ENDING
        hidden = name.startswith((".", "~")) or name.endswith("~")
        if (
            hidden
            or kind in NO_IMAGES
            or (kind == NO_ENDING and name.lower() in NAMES_WITHOUT_ENDING)
        ):
            return
        self.add(kind, path or name)

    def update(self, other: LeftOut, prefix: str = "") -> None:
        """Add what another count holds; `prefix` goes before its names."""
        self.counts.update(other.counts)
        for kind, names in other.examples.items():
            shown = self.examples.setdefault(kind, [])
            shown += [prefix + name for name in names[: SHOWN - len(shown)]]

    def __len__(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        """Return such as `12 files are left out: .heic (10), no ending (2)`; empty where there is none."""
        if not self:
            return ""
        kinds = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{printable(kind)} ({n})" for kind, n in kinds[:KINDS_SHOWN])
        more = sum(n for _, n in kinds[KINDS_SHOWN:])
        others = f", others ({more})" if more else ""
        files = "1 file is" if len(self) == 1 else f"{len(self)} files are"
        return f"{files} left out: {shown}{others}"

    def state(self) -> dict[str, Any]:
        """Return the arguments that make an equal count, as JSON values."""
        return {"counts": dict(self.counts), "examples": self.examples}
