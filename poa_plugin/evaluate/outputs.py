"""Whether results can be written, found out before an evaluation that takes hours."""

from __future__ import annotations

import os
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.files import REASONS


def check_writable(folder: Path, *names: str) -> None:
    """Make a folder for results, and try whether files can be written into it.

    Args:
        folder: `RUN/eval`, or the one that was asked for.
        names: of the files that are going to be written.

    Raises:
        UserError: the folder or one of the files cannot be written.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"results")
        probe.unlink()
    except OSError as error:
        reason = REASONS.get(error.errno or 0, error.strerror or str(error))
        raise UserError(
            f"The results go into '{folder}', which cannot be written: {reason}. Nothing was evaluated. For a "
            f"run of somebody else's name a folder of your own with --to."
        ) from error
    for name in names:
        if (folder / name).is_dir():
            raise UserError(
                f"The results go into '{folder / name}', which is a folder: remove or rename it."
            )
