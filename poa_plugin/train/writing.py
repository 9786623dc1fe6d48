"""Writing a checkpoint succeeds on all ranks or on none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poa_plugin import ranks
from poa_plugin.errors import UserError
from poa_plugin.files import write_reason
from poa_plugin.train.pieces import FailedRankError
from poa_plugin.train.rotation import restore_replaced, steps


@contextmanager
def agreement(root: Path, step: int) -> Iterator[None]:
    """Have all ranks raise if the block has failed on one of them, and remove the unfinished checkpoint."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_on_all(root, step, error)


def raise_on_all(root: Path, step: int, error: BaseException | None) -> None:
    """Raise on all ranks if one of them has failed; the unfinished checkpoint is removed.

    Args:
        root: the run's `ckpt` folder.
        step: of the checkpoint.
        error: what this rank has failed with, if it has.

    Raises:
        UserError: says which rank could not write, and why; of this rank's other errors, the error itself.
    """
    own = None if error is None else (isinstance(error, FailedRankError), *failure_of(error))
    failures = [failure for failure in ranks.gathered_objects(own) if failure is not None]
    if not failures:
        return
    if ranks.is_first():
        remove_unfinished(root, step)
    if error is not None and not isinstance(error, (OSError, FailedRankError)):
        raise error
    _, who, reason = min(failures, key=lambda failure: failure[0])  # a rank's own words come first
    raise UserError(could_not_write(root, step, who, reason)) from error


def remove_unfinished(root: Path, step: int) -> None:
    """Remove the unfinished checkpoint of a step, as far as the disk allows."""
    with suppress(OSError):  # a disk that still refuses: the next start restores the former one
        restore_replaced(root, step)


def could_not_write(root: Path, step: int, who: str, reason: str) -> str:
    """Return the sentence about a checkpoint that could not be written."""
    last = steps(root)
    remaining = f"the one of step {last[-1]} is intact" if last else "there is no earlier one"
    by = f" by {who}" if ranks.world() > 1 else ""
    return (
        f"The checkpoint '{step}' cannot be written under '{root}'{by}: {reason}; {remaining}. "
        f"Fix that, and the same command resumes."
    )


def reason_of(error: BaseException) -> str:
    """Return why a rank has failed, as a phrase."""
    if isinstance(error, OSError):
        return write_reason(error)
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def failure_of(error: BaseException) -> tuple[str, str]:
    """Return which rank an error is of, and why it has failed."""
    if isinstance(error, FailedRankError):
        return error.who, error.reason
    return ranks.name(), reason_of(error)
