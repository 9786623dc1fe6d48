"""Which files are meant: a checkpoint's file, or a published run's folder with its configuration."""

from __future__ import annotations

import os
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.interop.fit import is_published_file
from poa_plugin.interop.shards import RANK, rank_files


def find_checkpoint(path: Path) -> Path:
    """Return the newest checkpoint's file of a published run's folder; a file is what it is.

    Raises:
        UserError: nothing in the folder says which checkpoint is the newest, or its ranks disagree.
    """
    if not os.path.isdir(path):  # noqa: PTH112 (Path raises where a name is too long)
        return path
    if (path / "ckpt").is_dir():
        raise UserError(
            f"'{path}' is a run of this package already, which `poa train`, `extract` and `eval` take."
        )
    newest = {name: tag for tag in sorted(path.glob("last_checkpoint*")) if (name := _named(tag))}
    if not newest:
        names = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt"))
        shown = ", ".join(f"'{name}'" for name in names[:6]) or "none"
        raise UserError(
            f"'{path}' is a folder, and no file last_checkpoint in it names a checkpoint: give the "
            f"checkpoint's file (here: {shown})."
        )
    names = list(newest)
    if len({_without_rank(name) for name in names}) > 1:
        raise UserError(
            f"The ranks of the run '{path}' stopped at different checkpoints, {' and '.join(names[:4])}: "
            f"give a file of the last one that all of them have."
        )
    return path / names[0]


def find_config(file: Path) -> Path | None:
    """Return the `config.yaml` of a published run beside its checkpoint; None if there is none."""
    beside = file.parent / "config.yaml"
    return beside if beside.is_file() and is_published_file(beside) else None


def check_source(path: Path) -> Path:
    """Return the file of a checkpoint, all of whose files are there and can be read."""
    return rank_files(find_checkpoint(path))[0]


def _named(tag: Path) -> str:
    """Return the name of a file that a tag holds; the folder is the tag's own."""
    try:
        return Path(tag.read_text(encoding="utf-8").strip()).name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file '{tag}' cannot be read: {error}.") from error


def _without_rank(name: str) -> str:
    match = RANK.fullmatch(name)
    return match["name"] if match else name
