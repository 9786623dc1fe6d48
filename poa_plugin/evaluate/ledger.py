"""What a sweep has finished: kept network by network, so that a killed sweep goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, read_sweep, write_sweep
from poa_plugin.files import disk_errors


class Ledger:
    """The finished networks of a sweep under one set of conditions, in a folder of their own.

    Results under other conditions that lie in the folder are dropped, and a line says so.

    Args:
        folder: `RUN/eval/sweep`; features that are not finished may lie there, too.
        conditions: JSON values, see `Sweep`.
        space: the run's search space.

    Raises:
        UserError: what lies in the folder is damaged.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any], space: SearchSpace) -> None:
        self.folder, self.conditions, self.space = folder, conditions, space
        old = read_sweep(folder)
        self._networks = {own.network: own for own in old.networks} if old else {}
        changes = _differences(old.conditions, conditions) if old else []
        if changes:
            print(f"Starting the sweep anew: {'; '.join(changes)}.", flush=True)
            self._networks = {}
        if changes or old is None:
            if folder.is_dir():  # features without a record are of no use
                shutil.rmtree(folder)
            self._write()

    def __contains__(self, subnet: Subnet) -> bool:
        """Return whether a network's accuracy is known."""
        return subnet.name in self._networks

    def __getitem__(self, subnet: Subnet) -> NetworkResult:
        """Return what is known of a network."""
        return self._networks[subnet.name]

    def add(self, *networks: NetworkResult) -> None:
        """Note finished networks on the disk, each in the place of what was known of it."""
        self._networks.update({own.network: own for own in networks})
        self._write()

    def sweep(self) -> Sweep:
        """Return what is finished, in the order of the search space."""
        return Sweep(self.conditions, [self[subnet] for subnet in self.space if subnet in self])

    def _write(self) -> None:
        with disk_errors(self.folder):
            write_sweep(self.folder, self.sweep())


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {there.get(name)} and is {here.get(name)}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
