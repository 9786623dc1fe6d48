"""Where an imported run is put, checked before the long work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import REASONS
from poa_plugin.train import checkpoint


def check_target(run: Path) -> None:
    """Raise a `UserError` if a folder cannot be made, or holds something already."""
    if run == Path():
        raise UserError("The run needs a folder of its own: name a new one with --to.")
    try:
        if run.exists() and not run.is_dir():
            raise UserError(f"'{run}' is a file: a run is a folder.")
        if steps := checkpoint.steps(run / "ckpt"):
            newest = run / "ckpt" / str(steps[-1])
            raise UserError(
                f"'{run}' holds a checkpoint already, '{newest}': choose another folder."
            )
        if run.is_dir() and (names := sorted(path.name for path in run.iterdir())):
            raise UserError(f"'{run}' is not empty, it holds '{names[0]}': choose another folder.")
        above = next(path for path in run.resolve().parents if path.exists())
    except OSError as error:
        raise UserError(_refusal(run, error)) from error
    if not above.is_dir():
        raise UserError(f"'{run}' cannot be made: '{above}' is a file.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"'{run}' cannot be made: you may not write in '{above}'.")


def check_space(run: Path, needed: int) -> None:
    """Raise a `UserError` if a disk has fewer bytes left than a run needs."""
    above = next(path for path in run.resolve().parents if path.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"'{run}' cannot be written: it takes {needed / 1e6:.0f} MB, and the disk of '{above}' has "
            f"{free / 1e6:.0f} MB left."
        )


def _refusal(run: Path, error: OSError) -> str:
    return (
        f"'{run}' cannot be written: {REASONS.get(error.errno or 0, error.strerror or str(error))}."
    )
