"""Errors of backbones, those of other packages above all, as sentences."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poa_plugin.errors import UserError


@contextmanager
def backbone_errors(arch: str) -> Iterator[None]:
    """Turn whatever a backbone raises while it is built into a sentence: its options are the user's.

    Args:
        arch: its registered name.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"The backbone '{arch}' cannot be built with its options, student.{arch}: "
            f"{type(error).__name__}: {reason.rstrip('.')} ({Path(place.filename).name}, line {place.lineno})."
        ) from error
