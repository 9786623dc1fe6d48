"""Errors that are the user's to mend: each is one sentence, and the command line exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a configuration, a command or a file; the message says what to do about it."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence that names what is possible, the nearest name first."""
    names = [str(candidate) for candidate in names]
    if not names:
        return "there is nothing to choose from"
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"did you mean '{nearest[0]}'? Known: {shown}" if nearest else f"known: {shown}"
