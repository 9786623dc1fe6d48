"""Who holds a lock, and whether that process has ended, as far as another process can see."""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

STALE_SECONDS = 600.0
"""Without a heartbeat for so long, by the file system's clock, a holder that cannot be seen has ended."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as the lock's file describes it.

    Attributes:
        token: a random name for this lock alone.
        host: the machine's name.
        machine: distinguishes machines of one name (`/etc/machine-id`); may be empty.
        boot: of the machine (`/proc/sys/kernel/random/boot_id`); may be empty.
        pid_namespace: in which `pid` counts: containers on one machine each have one.
        pid: the process.
        started: when it was started, in clock ticks since the boot, which distinguishes two processes of one
            number; None where there is no `/proc`.
        since: local date and time at which the lock was taken, for people.
        slurm_job: cluster and job, or empty.
        slurm_restarts: how often that job had been requeued.
    """

    token: str
    host: str
    machine: str = ""
    boot: str = ""
    pid_namespace: str = ""
    pid: int = 0
    started: int | None = None
    since: str = ""
    slurm_job: str = ""
    slurm_restarts: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        """Describe this process, with a new token."""
        job = os.environ.get("SLURM_JOB_ID", "")
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            token=uuid.uuid4().hex[:16],
            host=socket.gethostname(),
            machine=_read("/etc/machine-id"),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            pid_namespace=_pid_namespace(),
            pid=os.getpid(),
            started=start_of(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            slurm_job=f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{job}" if job else "",
            slurm_restarts=int(restarts) if restarts.isdigit() else 0,
        )

    def has_ended(self, observer: Holder, silent_seconds: float) -> bool:
        """Whether this process has ended.

        * It has, if it is of the same SLURM job, and that was requeued since.
        * On the same machine: if the machine was started anew, if there is no such process any more, or
          if its number belongs to another one.
        * Where that cannot be seen, as on another host or in another container: if it has not touched
          its lock for `STALE_SECONDS`.

        Args:
            observer: the process that asks.
            silent_seconds: since the lock was touched, by the file system's clock.
        """
        requeued = self.slurm_restarts < observer.slurm_restarts
        if self.slurm_job and self.slurm_job == observer.slurm_job and requeued:
            return True
        if (self.host, self.machine) == (observer.host, observer.machine):
            if self.machine and self.boot != observer.boot:
                return True
            if (self.boot, self.pid_namespace) == (observer.boot, observer.pid_namespace):
                ended = _process_ended(self.pid, self.started)
                if ended is not None:
                    return ended
        return silent_seconds > STALE_SECONDS

    def __str__(self) -> str:
        job = f" (SLURM job {self.slurm_job.rpartition('/')[2]})" if self.slurm_job else ""
        process = f"process {self.pid}" if self.pid else "an unknown process"
        since = f", since {self.since}" if self.since else ""
        return f"{process} on host '{self.host}'{job}{since}"


UNKNOWN = Holder(token="unknown", host="unknown")
"""The holder of a lock whose file cannot be understood."""


def start_of(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the boot, or None if that cannot be read.

    For a process that has ended, and was not reaped by its parent yet, that is -1.
    """
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


def _process_ended(pid: int, started: int | None) -> bool | None:
    """Whether a process of this machine has ended; None if that cannot be seen."""
    start = start_of(pid)
    if start is not None and started is not None:
        return start != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return None
    return None


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
