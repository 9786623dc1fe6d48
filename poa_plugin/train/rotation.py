"""The folders of a run's checkpoints: which exist, how a new one gets its name, and which are removed.

A checkpoint of step 40 is written as `.40.partial` and renamed to `40`. One that is replaced by a
new one of its step, or is no longer needed, is renamed to `.40.removed` before it is deleted. One
that is damaged is set aside as `40.damaged`. So a folder with a number for a name was written completely,
and between any two of these operations every checkpoint that is needed exists under one of its names.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import flush
from poa_plugin.train.integrity import ABSENT, VerifiedCheckpoints, damage, unreadable

_verified = VerifiedCheckpoints()


def steps(root: Path) -> list[int]:
    """Return the steps of the checkpoints under a run's `ckpt` folder, in order.

    Raises:
        UnreadableError: the folder may not be read.
    """
    return sorted(int(name) for name in _names(root) if _is_step(name))


def partial_folder(root: Path, step: int) -> Path:
    """Return where the checkpoint of a step is written before it gets its name."""
    return root / f".{step}.partial"


def removed_folder(root: Path, step: int) -> Path:
    """Return what the checkpoint of a step is called before it is deleted."""
    return root / f".{step}.removed"


def latest(root: Path, fall_back: bool = False) -> Path | None:
    """Return the newest checkpoint's folder, or None where there is none yet.

    One that a kill left as `.<step>.removed`, in the middle of being replaced, counts if it is intact.
    Nothing is renamed without `fall_back`: a training may be writing in this folder.

    Args:
        root: the run's `ckpt` folder.
        fall_back: pass over damaged checkpoints, and set them aside as `<step>.damaged`, with a
            warning for each on stderr.

    Raises:
        NewerFormatError: it has a format that this version of the package cannot read; with `fall_back`, too.
        UnreadableError: the newest checkpoint may not be read.
        UserError: the newest checkpoint is damaged, or with `fall_back` every one; the damage is
            named, and the newest intact one.
    """
    problems: list[tuple[Path, str]] = []
    candidates = _candidates(root)
    for step, folder in sorted(candidates.items(), reverse=True):
        before = _inode(folder)
        reason = damage(folder)
        if reason is not None and _inode(folder) != before:
            return latest(root, fall_back)  # a training replaced or removed it while it was read
        if reason is not None and folder != root / str(step):
            continue  # half deleted
        if reason is not None:
            problems.append((folder, f"The checkpoint '{folder}' is damaged: {reason}"))
        elif fall_back:
            for damaged, problem in problems:
                aside = _set_aside(damaged)
                print(
                    f"WARNING: {problem}. It is set aside as '{aside.name}'; falling back to '{folder}'.",
                    file=sys.stderr,
                )
            return folder
        elif problems:
            raise UserError(
                f"{problems[0][1]}. The newest intact one is '{folder}': to resume from it, set "
                f"train.damaged_checkpoint=previous, or remove the damaged folder."
            )
        else:
            return folder
    if _candidates(root) != candidates:
        return latest(root, fall_back)
    if problems:
        raise UserError(f"{problems[0][1]}. No checkpoint under '{root}' is intact.")
    return None


def clear_unfinished(root: Path) -> None:
    """Undo what a kill interrupted: restore a checkpoint that was being replaced, delete the rest.

    Call it only where no other process writes checkpoints in this folder.

    Raises:
        NewerFormatError: a checkpoint that may have to be brought back has a format of a newer version.
        UnreadableError: the folder, or such a checkpoint, may not be read.
    """
    for step, folder in _candidates(root).items():
        if folder != root / str(step) and damage(folder) is None:
            folder.rename(root / str(step))
    for name in _names(root):
        if name.startswith(".") and name.endswith((".partial", ".removed")):
            shutil.rmtree(root / name, ignore_errors=True)


def publish(root: Path, step: int) -> Path:
    """Give the finished `.<step>.partial` its name; one that has the name already is deleted afterwards."""
    partial, target, removed = (
        partial_folder(root, step),
        root / str(step),
        removed_folder(root, step),
    )
    if target.exists():
        shutil.rmtree(removed, ignore_errors=True)
        target.rename(removed)
    partial.rename(target)
    for folder in (root, root.parent):  # where a first checkpoint's `ckpt` folder is new, too
        flush(folder)
    _verified.add(target)
    shutil.rmtree(removed, ignore_errors=True)
    return target


def restore_replaced(root: Path, step: int) -> None:
    """Delete an unfinished checkpoint of a step, and restore the one that it was to replace."""
    removed, target = removed_folder(root, step), root / str(step)
    shutil.rmtree(partial_folder(root, step), ignore_errors=True)
    if removed.exists() and not target.exists():
        removed.rename(target)


def prune(root: Path, newest: int, keep: int, keep_multiples_of: int = 0) -> None:
    """Delete the checkpoints from before the one just written that are no longer needed.

    Only intact ones count as kept. What is newer than `newest` is left alone.

    Args:
        root: the run's `ckpt` folder.
        newest: the step of the checkpoint that was just written; it is never deleted.
        keep: how many to keep, `newest` among them; 0 or less keeps all.
        keep_multiples_of: those whose step is a multiple of this are kept too; 0: none.
    """
    if keep <= 0:
        return
    kept = 1
    for step in reversed([step for step in steps(root) if step < newest]):
        folder = root / str(step)
        if kept < keep:
            kept += _verified.is_intact(folder)
        elif not (keep_multiples_of and step % keep_multiples_of == 0):
            removed = removed_folder(root, step)
            shutil.rmtree(removed, ignore_errors=True)
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _candidates(root: Path) -> dict[int, Path]:
    """Return the folder of each step; `.<step>.removed` only where there is no `<step>`."""
    names = _names(root)
    removed = {int(n[1:-8]) for n in names if n.endswith(".removed") and _is_step(n[1:-8])}
    folders = {step: removed_folder(root, step) for step in removed}
    return folders | {int(name): root / name for name in names if _is_step(name)}


def _names(root: Path) -> list[str]:
    try:
        return [entry.name for entry in root.iterdir()]
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise unreadable(root, error) from error


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise unreadable(folder, error) from error


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it no longer counts as one; return its new path."""
    target, number = folder.with_name(f"{folder.name}.damaged"), 1
    while target.exists() or target.is_symlink():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged.{number}")
    return folder.rename(target)
