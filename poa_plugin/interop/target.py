"""Where an imported run is put: checked before the long work."""

from __future__ import annotations

import shutil
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import writing
from poa_plugin.targets import check_folder_target
from poa_plugin.train import checkpoint


def check_target(run: Path) -> None:
    """Raise a `UserError` if a folder cannot be made, or holds something already."""
    if run == Path():
        raise UserError("The run needs a folder of its own: name a new one with --to.")
    check_folder_target(run, "The run's folder")
    if steps := checkpoint.steps(run / "ckpt"):
        newest = run / "ckpt" / str(steps[-1])
        raise UserError(f"'{run}' holds a checkpoint already, '{newest}': choose another folder.")
    with writing(run):
        names = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
    if names:
        raise UserError(f"'{run}' is not empty, it holds '{names[0]}': choose another folder.")


def check_space(run: Path, needed: int) -> None:
    """Raise a `UserError` if a disk has fewer bytes left than a run needs."""
    with writing(run):
        above = next(path for path in run.resolve().parents if path.exists())
        free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"'{run}' cannot be written: it takes {needed / 1e6:.0f} MB, and the disk of '{above}' has "
            f"{free / 1e6:.0f} MB left."
        )
