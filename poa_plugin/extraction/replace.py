"""What `poa extract --force` may replace: folders that hold what `poa extract` wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.extraction.network import CONFIG, HEADS, WEIGHTS, read_description

FILES = {WEIGHTS, CONFIG, HEADS}


def why_not_replace(folder: Path) -> str | None:
    """Say why a folder is neither an extracted network nor a folder of such; None if it is one of them."""
    entries = sorted(folder.iterdir())
    if not entries or not all(entry.is_dir() and not entry.is_symlink() for entry in entries):
        return _why_no_network(folder, folder)
    reasons = (_why_no_network(entry, folder) for entry in entries)
    return next((reason for reason in reasons if reason is not None), None)


def _why_no_network(folder: Path, target: Path) -> str | None:
    for entry in sorted(folder.iterdir()):
        if entry.name not in FILES or entry.is_symlink() or not entry.is_file():
            return f"'{entry.relative_to(target)}' in it was not written by 'poa extract'"
    try:
        read_description(folder)
    except UserError as error:
        return str(error).rstrip(".")
    return None
