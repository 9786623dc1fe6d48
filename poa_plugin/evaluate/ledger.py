"""What is known of a run's networks: kept network by network, so that a killed sweep goes on.

`RUN/eval/sweep/<name>/` holds the accuracies under one set of conditions, `latency/<name>/` within it the
latencies on one device; results under other conditions stay beside them.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError
from poa_plugin.evaluate.conditions import conditions_name
from poa_plugin.evaluate.feature_store import remove_features
from poa_plugin.evaluate.latency import Latency
from poa_plugin.files import disk_errors, write_whole
from poa_plugin.runs.front import latency_is_reliable
from poa_plugin.runs.sweep_results import CSV, JSON, NetworkResult

Parsed = TypeVar("Parsed")

GOES_ON = "What was finished before stands; mend that, and the same command goes on."


class Ledger:
    """The accuracies and latencies of a run's networks, as far as they are known.

    Several processes may evaluate networks of one run at the same time.

    Args:
        folder: `RUN/eval/sweep`.
        accuracy, latency: JSON values on which accuracies and latencies depend.
        ks: the numbers of neighbors that are asked for; accuracies of others stay on the disk.
        space: the run's search space.

    Raises:
        UserError: a file is damaged, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        accuracy: Mapping[str, Any],
        latency: Mapping[str, Any],
        ks: Sequence[int],
        space: SearchSpace,
    ) -> None:
        self.ks, self.space = sorted(set(ks)), space
        self.folder = folder / conditions_name(accuracy)
        with disk_errors(folder, GOES_ON):
            _keep_former(folder)
            self._accuracies = _Records(self.folder / "networks", self.folder, accuracy)
            measured = self.folder / "latency" / conditions_name(latency)
            self._latencies = _Records(measured / "networks", measured, latency)
        self.refresh()

    def refresh(self) -> None:
        """Read what is known now; other processes may have added to it."""
        self._known = self._accuracies.read(_result)
        self._measured = self._latencies.read(_latency)

    def __contains__(self, subnet: Subnet) -> bool:
        """Return whether a network's accuracy is known for every k."""
        own = self._known.get(subnet.name)
        return own is not None and all(k in own.top1 for k in self.ks)

    def __getitem__(self, subnet: Subnet) -> NetworkResult:
        """Return what is known of a network, for the ks that are asked for."""
        own = self._known[subnet.name]
        latency = self._measured.get(subnet.name)
        return replace(
            own,
            top1={k: own.top1[k] for k in self.ks},
            latency_ms=latency.milliseconds if latency else None,
            latency_spread_ms=latency.spread if latency else None,
        )

    def is_measured(self, subnet: Subnet) -> bool:
        """Return whether a network's latency is known and worth comparing."""
        return latency_is_reliable(self[subnet])

    def networks(self) -> list[NetworkResult]:
        """Return the networks whose accuracies are known, in the order of the search space."""
        return [self[subnet] for subnet in self.space if subnet in self]

    def add(self, result: NetworkResult) -> None:
        """Note a network's accuracies on the disk, beside those for other ks."""
        before = self._known.get(result.network)
        top1 = {**(before.top1 if before else {}), **result.top1}
        own = replace(result, top1=dict(sorted(top1.items())))
        with disk_errors(self.folder, GOES_ON):
            self._accuracies.write(result.network, asdict(own))
        self._known[result.network] = own

    def add_latencies(self, latencies: Mapping[Subnet, Latency]) -> None:
        """Note networks' latencies on the disk."""
        for subnet, own in latencies.items():
            with disk_errors(self.folder, GOES_ON):
                self._latencies.write(subnet.name, asdict(own))
            self._measured[subnet.name] = own

    @contextmanager
    def features_folder(self) -> Iterator[Path]:
        """Give a folder for features that no other process uses meanwhile.

        It is the first that is free: one that a killed process leaves is taken, and its features are used.
        """
        for number in itertools.count():
            folder = self.folder / "features" / str(number)
            with disk_errors(folder, GOES_ON):
                folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder) as is_free:
                if is_free:
                    yield folder
                    return

    def remove_leftovers(self) -> None:
        """Remove features of finished networks, which a killed process has left."""
        finished = [network.network for network in self.networks()]
        for folder in sorted((self.folder / "features").glob("*")):
            with _locked(folder) as is_free:
                if is_free:
                    remove_features(folder, finished)


class _Records:
    """JSON objects by a network's name, a file for each, written whole."""

    def __init__(self, folder: Path, parent: Path, conditions: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (parent / "conditions.json").is_file():
            text = json.dumps(conditions, indent=1, default=str)
            write_whole(parent / "conditions.json", text + "\n")

    def read(self, parse: Callable[[dict[str, Any]], Parsed]) -> dict[str, Parsed]:
        return {file.stem: _read(file, parse) for file in sorted(self.folder.glob("*.json"))}

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        write_whole(self.folder / f"{name}.json", json.dumps(record) + "\n")


def _read(file: Path, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed:
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"'{file}' is damaged ({error!r}): remove it, and its network is evaluated again."
        ) from error


def _result(record: Mapping[str, Any]) -> NetworkResult:
    top1 = {int(k): float(value) for k, value in record["top1"].items()}
    return NetworkResult(**{**record, "aliases": tuple(record["aliases"]), "top1": top1})


def _latency(record: Mapping[str, Any]) -> Latency:
    return Latency(float(record["milliseconds"]), float(record["spread"]))


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes, until this one leaves the context or ends.

    Yields whether it is locked now: False if another process has it.
    """
    with disk_errors(folder, GOES_ON):
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks cannot tell of other processes: there are taken to be none.
            yield error.errno not in (errno.EAGAIN, errno.EACCES)
        else:
            yield True


def _keep_former(folder: Path) -> None:
    """Set aside the results that a former version left in `RUN/eval` alone, and say that they stay."""
    if folder.is_dir() and any(own.is_dir() for own in folder.iterdir()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    newest = folder.parent / JSON
    if newest.is_file() and not (folder / JSON).is_file():
        for name in (JSON, CSV):
            if (folder.parent / name).is_file():
                shutil.copyfile(folder.parent / name, folder / name)
    if (folder / JSON).is_file():
        print(
            f"The sweep of a former version, which resized images otherwise, stays in '{folder}{os.sep}'; "
            f"the networks are evaluated again.",
            flush=True,
        )
