"""Signs of life between ranks: who is late, who failed and why, and an end for all within a time limit.

Collectives name no rank when they time out, and a killed one only as an address. So a thread on each rank
writes into the launcher's store that it lives, and what the rank is doing; it reads the same of all others.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from poa_plugin import ranks
from poa_plugin.errors import UserError
from poa_plugin.failures import USER_ERROR, explain

INTACT = "The last checkpoint is intact"
BEATS_MISSED = 5
"""Beats without which a rank counts as gone, once a connection to another rank has broken."""


@dataclass
class Beat:
    """What a rank tells the others.

    Attributes:
        host, pid: its process.
        count: of beats so far.
        progress: of phases so far; all ranks go through the same ones.
        step: of the training.
        phase: what it does, such as "reading images".
        error: why it ends, if it does.
        status: its exit status then.
        of_another: whether that is another rank's error.
    """

    host: str
    pid: int
    count: int = 0
    progress: int = 0
    step: int = 0
    phase: str = "starting"
    error: str = ""
    status: int = USER_ERROR
    of_another: bool = False


class Heartbeat:
    """What a rank is doing. In one process, nobody is told.

    Attributes:
        beat: the present one.
    """

    def __init__(self) -> None:
        self.beat = Beat(socket.gethostname(), os.getpid())

    def enter(self, phase: str, step: int | None = None) -> None:
        """Note what the rank does from now on; every rank notes the same phases in the same order."""
        self.beat.phase = phase
        self.beat.progress += 1
        if step is not None:
            self.beat.step = step

    def before_exit(self, clean_up: Callable[[], None]) -> None:
        """Have something called when the process is ended from outside its main thread."""


class _Seen:
    """The last beat of another rank, and when it and its progress were seen to change."""

    def __init__(self, now: float) -> None:
        self.beat: Beat | None = None
        self.heard = self.moved = now

    def update(self, beat: Beat, now: float) -> None:
        if self.beat is None or beat.count != self.beat.count:
            self.heard = now
        if self.beat is None or beat.progress != self.beat.progress:
            self.moved = now
        self.beat = beat


class SharedHeartbeat(Heartbeat):
    """Tells the other ranks what this one does, and ends it with a sentence when another fails or is late.

    Args:
        store: of the launcher, a connection for this object alone.
        timeout_s: within which all ranks end after one has stopped.
    """

    def __init__(self, store: dist.Store, timeout_s: float) -> None:
        super().__init__()
        self.store, self.timeout_s = store, timeout_s
        self.interval = min(5.0, timeout_s / 20)
        now = time.monotonic()
        self._seen = [_Seen(now) for _ in range(ranks.world())]
        self._clean_ups: list[Callable[[], None]] = []
        self._store_heard = now
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def before_exit(self, clean_up: Callable[[], None]) -> None:
        """See `Heartbeat.before_exit`."""
        self._clean_ups.append(clean_up)

    def close(self) -> None:
        """Stop watching; the others are told first that this rank ends."""
        self._ended.set()
        self._thread.join()

    def fail(self, sentence: str, status: int = USER_ERROR, of_another: bool = False) -> None:
        """Tell the other ranks why this one ends, and give them time to read it."""
        self.beat.error, self.beat.status, self.beat.of_another = sentence, status, of_another
        with suppress(Exception):
            self._exchange()
        time.sleep(2 * self.interval)

    def diagnose(self) -> str:
        """Return why a connection to another rank has broken: what a rank said, or which one is gone."""
        deadline = time.monotonic() + max(BEATS_MISSED * self.interval, 2.0)
        while time.monotonic() < deadline:
            with suppress(Exception):
                self._exchange()
            if failed := self.failed():
                return self._error_of(failed)
            time.sleep(self.interval / 2)
        silent = self._silent(BEATS_MISSED * self.interval * 0.8)
        if silent:
            return self._gone(silent)
        return f"The connection to another rank has broken, though all give signs of life. {INTACT}"

    def _watch(self) -> None:
        while not self._ended.wait(self.interval):
            with suppress(Exception):  # a store that does not answer: it is that of rank 0's host
                self._exchange()
            if failed := self.failed():
                self._end(self._error_of(failed), failed.status)
            if sentence := self._late():
                self._end(sentence, USER_ERROR)

    def _exchange(self) -> None:
        """Write this rank's beat, and read all."""
        with self._mutex:
            self.beat.count += 1
            self.store.set(_key(ranks.rank()), json.dumps(asdict(self.beat)))
            keys = [_key(rank) for rank in range(len(self._seen))]
            present = keys if self.store.check(keys) else [k for k in keys if self.store.check([k])]
            values = dict(zip(present, self.store.multi_get(present), strict=True))
            now = self._store_heard = time.monotonic()
            for key, seen in zip(keys, self._seen, strict=True):
                if key in values:
                    seen.update(Beat(**json.loads(values[key])), now)

    def failed(self) -> Beat | None:
        """Return the beat of another rank that ends, if one does."""
        others = [seen.beat for rank, seen in enumerate(self._seen) if rank != ranks.rank()]
        return next((beat for beat in others if beat is not None and beat.error), None)

    def _error_of(self, beat: Beat) -> str:
        rank = next(rank for rank, seen in enumerate(self._seen) if seen.beat is beat)
        return beat.error if beat.of_another else f"{self._name(rank)} has ended: {beat.error}"

    def _late(self) -> str:
        """Return which ranks have been silent, or have stood still, for most of the time limit."""
        limit, now = 0.7 * self.timeout_s, time.monotonic()
        if now - self._store_heard > limit:
            where = "the launcher's store, on the host of rank 0,"
            return f"{where} has not answered for {limit:.0f} seconds. {INTACT}"
        if silent := self._silent(limit):
            return self._gone(silent)
        beats = [seen.beat for seen in self._seen]
        if any(beat is None for beat in beats) or any(now - s.moved < limit for s in self._seen):
            return ""
        behind = min(beat.progress for beat in beats if beat is not None)
        late = [r for r, beat in enumerate(beats) if beat is not None and beat.progress == behind]
        return f"{self._names(late)} did nothing for {limit:.0f} seconds. {INTACT}"

    def _silent(self, seconds: float) -> list[int]:
        """Return the ranks that have given no sign of life for so long."""
        now = time.monotonic()
        return [
            rank
            for rank, seen in enumerate(self._seen)
            if rank != ranks.rank() and now - seen.heard > seconds
        ]

    def _gone(self, silent: list[int]) -> str:
        since = time.monotonic() - min(self._seen[rank].heard for rank in silent)
        return f"{self._names(silent)} gave no sign of life for {since:.0f} seconds. {INTACT}"

    def _names(self, numbers: list[int]) -> str:
        more = f" and {len(numbers) - 4} more ranks" if len(numbers) > 4 else ""
        return ", ".join(self._name(rank, with_phase=True) for rank in numbers[:4]) + more

    def _name(self, rank: int, with_phase: bool = False) -> str:
        beat = self._seen[rank].beat
        if beat is None:
            return f"rank {rank}"
        phase = f", last seen in step {beat.step}, {beat.phase}" if with_phase else ""
        return f"rank {rank} (process {beat.pid} on '{beat.host}'{phase})"

    def _end(self, sentence: str, status: int) -> None:
        """End this process, whose main thread waits for a rank that will not answer."""
        text = _capitalized(sentence)
        self.beat.error, self.beat.status, self.beat.of_another = text, status, True
        with suppress(Exception):
            self._exchange()
        for clean_up in self._clean_ups:
            with suppress(Exception):
                clean_up()
        with suppress(OSError, ValueError):
            print(f"\npoa: {text}.", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(status)


@contextmanager
def heartbeat(timeout_s: float) -> Iterator[Heartbeat]:
    """Watch over the ranks of a training while the context lasts.

    An exception on this rank is told to the others; one that follows from another rank's end becomes a
    `UserError` that says what happened there.
    """
    if ranks.world() == 1:
        yield Heartbeat()
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=min(30.0, timeout_s))
    client = dist.TCPStore(address, port, is_master=False, timeout=wait)
    store = dist.PrefixStore(f"poa/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", client)
    shared = SharedHeartbeat(store, timeout_s)
    try:
        yield shared
    except SystemExit as end:  # a signal before the first step
        shared.fail("it was told to end", end.code if isinstance(end.code, int) else USER_ERROR)
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError) and explain(error) is None and _is_connection(error):
            sentence, failed = _capitalized(shared.diagnose()), shared.failed()
            status = USER_ERROR if failed is None else failed.status
            shared.fail(sentence, status, of_another=True)
            if status != USER_ERROR:
                raise SystemExit(status) from error
            raise UserError(f"{sentence}.") from error
        shared.fail((explain(error) or (f"{type(error).__name__}: {error}", 0))[0].rstrip("."))
        raise
    finally:
        shared.close()


def _is_connection(error: RuntimeError) -> bool:
    """Whether an error is that of a collective that lost another rank."""
    text = f"{type(error).__name__} {error}"
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "NCCL", "peer")
    )


def _capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _key(rank: int) -> str:
    return f"beat/{rank}"
