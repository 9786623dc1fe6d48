"""TensorBoard's event files, in the run's `events/`."""

from __future__ import annotations

import errno
import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poa_plugin.loggers.base import Logger
from poa_plugin.registry import LOGGERS

_numbers = itertools.count()


@LOGGERS.register_as("tensorboard")
class TensorBoard(Logger):
    """One event file for each attempt, read as it grows; steps that are run again replace the former ones.

    The files are those of `torch.utils.tensorboard.SummaryWriter`, whose own thread prints a traceback when
    the disk is full.
    """

    package = install = "tensorboard"

    def open(self, run: Path, config: dict[str, Any], step: int) -> None:
        """See `Logger.open`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder = run / "events"
        folder.mkdir(exist_ok=True)
        name = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.file = (folder / f"events.out.tfevents.{name}").open("wb", buffering=0)
        try:
            self._write(Event(file_version="brain.Event:2"))
            # From this step on, readers drop what earlier files have.
            self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        except OSError:
            self.close()
            raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        """See `Logger.close`."""
        self.file.close()

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        if self.file.write(record.getvalue()) != len(record.getvalue()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
