"""Saving the checkpoints of a training, at once or in a thread while training continues."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from poa_plugin import ranks
from poa_plugin.train import checkpoint
from poa_plugin.train.snapshot import Snapshot, finish, take_snapshot, write
from poa_plugin.train.writing import could_not_write, failure_of, raise_on_all, remove_unfinished


class Saver:
    """Saves a run's checkpoints; leaving its context waits for one that is being written.

    All ranks call each method at the same step. An asynchronous save copies the tensors to the host's memory.
    A thread writes them, gives the checkpoint its name and removes older ones. At most one is written at a
    time: the next save waits for it. A kill leaves it whole or absent, as it does without a thread.

    Args:
        root: the run's `ckpt` folder.
        keep, keep_multiples_of: see `checkpoint.save`.
        asynchronous: write in a thread.

    Attributes:
        longest: seconds that the slowest checkpoint has taken, in the thread if there is one.
    """

    def __init__(
        self, root: Path, keep: int, keep_multiples_of: int = 0, asynchronous: bool = False
    ) -> None:
        self.root, self.kept, self.asynchronous = root, (keep, keep_multiples_of), asynchronous
        self.longest = 0.0
        self._thread: threading.Thread | None = None
        self._step = 0
        self._error: BaseException | None = None

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Save a checkpoint; see `checkpoint.save`.

        Raises:
            NotFiniteError: a weight or a moment is not finite, and named; nothing is written.
            UserError: this checkpoint cannot be written, or the one before it could not.
        """
        self.wait()
        began = time.perf_counter()
        if not self.asynchronous:
            checkpoint.save(self.root, model, optimizer, state, *self.kept)
            self._note_time(began)
            return
        snapshot = take_snapshot(self.root, model, optimizer, state, in_own_memory=True)
        self._step = snapshot.step
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, began), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the checkpoint that is being written has its name, on all ranks.

        Raises:
            UserError: it could not be written.
        """
        if self._thread is None:
            return
        error = self._join()
        raise_on_all(self.root, self._step, error)

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.wait()
            return
        failure = self._join()  # other ranks may not come here: they are not asked
        if failure is not None:
            if ranks.is_first():
                remove_unfinished(self.root, self._step)
            sentence = could_not_write(self.root, self._step, *failure_of(failure))
            print(f"\npoa: warning: {sentence}", file=sys.stderr)

    def _join(self) -> BaseException | None:
        """Wait for the thread, if there is one; return what it has failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _write(self, snapshot: Snapshot, began: float) -> None:
        try:
            write(snapshot)
            if snapshot.rank == 0:
                finish(snapshot, *self.kept)
            self._note_time(began)
        except BaseException as error:
            self._error = error

    def _note_time(self, began: float) -> None:
        self.longest = max(self.longest, time.perf_counter() - began)
