"""Every trained sub-network of a run evaluated, those of one width by traversing their prefix tree once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from poa_plugin.backbones.base import PlainNetwork
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.evaluate.conditions import (
    accuracy_conditions,
    conditions_name,
    data_words,
    image_conditions,
    latency_conditions,
)
from poa_plugin.evaluate.feature_store import FeatureStore
from poa_plugin.evaluate.knn import check_votes, fitting_ks, knn_accuracy
from poa_plugin.evaluate.latency import device_name, latencies
from poa_plugin.evaluate.ledger import GOES_ON, Ledger
from poa_plugin.evaluate.networks import by_width, swept_networks
from poa_plugin.evaluate.outputs import check_writable
from poa_plugin.evaluate.progress import ProgressBar
from poa_plugin.evaluate.splits import EvaluationImages, labeled_splits, with_data
from poa_plugin.evaluate.tree import PrefixTree, bytes_per_image, deepest_network
from poa_plugin.files import disk_errors
from poa_plugin.runs.run import Run
from poa_plugin.runs.sweep_results import CSV, JSON, NetworkResult, Sweep, read_sweep, write_sweep

__all__ = ["SweepOptions", "sweep_run", "with_data"]

SPLITS = ("train", "test")
SILENT = ("run", "device", "threads", "torch", "protocol", "data", "weights")
"""Conditions that are no reason to start anew, or that others say in words."""


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is made.

    Attributes:
        widths: whose networks are evaluated; all if None.
        branch: `teacher` or `student`.
        ks: numbers of neighbors; those of 10, 20, 100 and 200 that the training images allow if None.
        temperature: see `knn_accuracy`.
        memory: bytes, of which a quarter each is for the activations of a batch, for decoded images, for
            features, and, while no network runs, two quarters for k-NN.
        latency: whether it is measured.
        to: a folder for results and features in the place of `RUN/eval`.
    """

    widths: Sequence[int] | None = None
    branch: str = "teacher"
    ks: Sequence[int] | None = None
    temperature: float = 0.07
    memory: int = 4_000_000_000
    latency: bool = True
    to: Path | None = None

    @property
    def room(self) -> int:
        """Bytes for each of the four."""
        return self.memory // 4


def sweep_run(run: Run, options: SweepOptions) -> Sweep:
    """Evaluate a run's networks with k-NN; write `RUN/eval/sweep.json` and `.csv` after each width.

    What an earlier call under the same conditions finished is not done again. Networks that were never
    trained are left out, and a sentence on stderr says so.

    Returns:
        All networks that are finished under these conditions, those of earlier calls among them.

    Raises:
        UserError: a width is unknown or has no trained network, the data set is empty or has no labels,
            there are fewer training images than the largest k, the memory does not suffice for one image,
            or the results cannot be written.
    """
    return _Sweeper(run, options).sweep()


class _Sweeper:
    """A sweep under way: what all widths have in common."""

    def __init__(self, run: Run, options: SweepOptions) -> None:
        self.run, self.options, self.folder = run, options, options.to or run.folder / "eval"
        check_writable(self.folder, JSON, CSV)
        self.evaluation = run.config.evaluation
        self.backbone = run.backbone(options.branch)
        self.backbone.check_image_size(self.evaluation.crop_size)
        self.space = self.backbone.space
        self.members = swept_networks(run, self.space, options.widths)
        self.splits = labeled_splits(run.config)
        n_train, n_test = map(len, self.splits)
        self.ks = fitting_ks(n_train) if options.ks is None else tuple(options.ks)
        check_votes(n_train, n_test, self.ks, options.temperature)
        workers = run.config.data.num_workers
        self.images = [
            EvaluationImages(
                split, self.evaluation, options.room * len(split) // self._n_images, workers
            )
            for split in self.splits
        ]
        self.device = resolve_device(run.config.train.device)
        images = image_conditions(run.config, self.splits, options.temperature)
        self.protocol = conditions_name(images)
        accuracy = accuracy_conditions(run, options.branch, images)
        self.weights = str(accuracy["weights"])
        self.ledger = Ledger(
            self.folder / "sweep",
            accuracy,
            latency_conditions(run.config, self.device),
            self.ks,
            self.space,
        )

    def sweep(self) -> Sweep:
        """See `sweep_run`."""
        trees = [PrefixTree.of(self.backbone, members) for members in self.members.values()]
        steps, single = sum(map(len, trees)), sum(tree.single_steps for tree in trees)
        subnets = [subnet for members in self.members.values() for subnet in members]
        before = sum(subnet in self.ledger for subnet in subnets)
        if changes := [] if self.ledger.networks() else self._changes():
            print(
                f"Starting the sweep anew: {'; '.join(changes)}. The former one stays.", flush=True
            )
        print(
            f"{len(subnets)} networks: {steps} modules run for each image in place "
            f"of {single} ({steps / single:.2f})"
            + (f"; {before} networks were finished before." if before else "."),
            flush=True,
        )
        self._check_memory()
        with ProgressBar(len(self.members) * self._n_images) as progress:
            for members in self.members.values():
                self._evaluate_width(members, progress)
                self._write()
            if self.options.latency:
                self._measure(
                    [own for own in subnets if not self.ledger.is_measured(own)], progress
                )
        self.ledger.remove_leftovers()
        return self._write()

    @property
    def _n_images(self) -> int:
        return sum(map(len, self.splits))

    def _check_memory(self) -> None:
        """Raise a `UserError` before anything is evaluated if a width's batch cannot hold one image."""
        needs = {}
        for width, members in self.members.items():
            if missing := [subnet for subnet in members if subnet not in self.ledger]:
                network = deepest_network(self.backbone, width).to(self.device)
                tree = PrefixTree.of(self.backbone, missing)
                needs[width] = bytes_per_image(tree, network, self._image)
        most = max(needs.values(), default=0)
        if most > self.options.room:
            raise UserError(
                f"--memory is too small: a quarter of it is for the outputs of blocks, and one image needs "
                f"{most} bytes; give at least {4 * most}."
            )

    def _evaluate_width(self, members: Sequence[Subnet], progress: ProgressBar) -> None:
        """Evaluate those members of a width that neither this process nor another has finished."""
        self.ledger.refresh()
        missing = [subnet for subnet in members if subnet not in self.ledger]
        if not missing:
            progress.advance(self._n_images)
            return
        network = deepest_network(self.backbone, missing[0].width).to(self.device)
        with self.ledger.features_folder() as folder:
            self._evaluate(missing, network, folder, progress)

    @torch.inference_mode()
    def _evaluate(
        self,
        members: Sequence[Subnet],
        network: PlainNetwork,
        folder: Path,
        progress: ProgressBar,
    ) -> None:
        """Take the features of members of one width and classify by them."""
        tree = PrefixTree.of(self.backbone, members)
        each = bytes_per_image(tree, network, self._image)
        batch = min(max(1, self.options.room // each), self.evaluation.batch_size)
        stores = self._stores(members, folder)
        for images, store in zip(self.images, stores, strict=True):
            progress.say(f"width {members[0].width}: features of {store.split} images")
            done = store.resume(batch)
            progress.advance(done)
            for x in images.batches(done, batch, self.device):
                for subnet, features in tree.walk(network, x):
                    store.append(subnet.name, features)
                progress.advance(len(x))
        for subnet in members:
            progress.say(f"{subnet.name}: k-NN")
            self.ledger.add(self._classify(subnet, stores))
            for store in stores:
                store.drop(subnet.name)

    def _stores(self, members: Sequence[Subnet], folder: Path) -> list[FeatureStore]:
        """Return where the features go; what was begun on the disk goes on there."""
        widths = {subnet.name: self.backbone.feature_width(subnet) for subnet in members}
        stores = [FeatureStore(widths, split, folder) for split in SPLITS]
        fit = 2 * sum(widths.values()) * self._n_images <= self.options.room
        if fit and not any(store.has_files() for store in stores):
            return [FeatureStore(widths, split, None) for split in SPLITS]
        return stores

    def _classify(self, subnet: Subnet, stores: Sequence[FeatureStore]) -> NetworkResult:
        train, test = (store.read(subnet.name) for store in stores)
        labels = [split.labels for split in self.splits]
        cost = self.space.cost(subnet, self.evaluation.crop_size)
        return NetworkResult(
            network=subnet.name,
            aliases=tuple(self.space.aliases_of(subnet)),
            width=subnet.width,
            depth=subnet.total_depth,
            params=cost.params,
            flops=cost.flops,
            top1=knn_accuracy(
                train,
                labels[0],
                test,
                labels[1],
                self.ks,
                self.options.temperature,
                device=self.device,
                memory=2 * self.options.room,
            ),
        )

    def _measure(self, subnets: Sequence[Subnet], progress: ProgressBar) -> None:
        """Measure latencies, of as many widths side by side as fit into the memory."""
        for group in self._width_groups(subnets):
            progress.say(f"latency of {len(group)} networks")
            networks = {
                width: deepest_network(self.backbone, width).to(self.device)
                for width in sorted({subnet.width for subnet in group})
            }
            paths = {subnet: self.backbone.member_path(subnet) for subnet in group}
            self.ledger.add_latencies(latencies(networks, paths, self._image))

    def _width_groups(self, subnets: Sequence[Subnet]) -> Iterator[list[Subnet]]:
        """Yield networks in groups whose weights fit into a quarter of the memory, at least a width each."""
        group: list[Subnet] = []
        total = 0
        for width, members in by_width(subnets).items():
            deepest = max((s for s in self.space if s.width == width), key=lambda s: s.total_depth)
            needs = 4 * self.space.cost(deepest).params
            if group and total + needs > self.options.room:
                yield group
                group, total = [], 0
            group, total = group + members, total + needs
        if group:
            yield group

    @cached_property
    def _image(self) -> torch.Tensor:
        return self.images[0].first().to(self.device)

    def _write(self) -> Sweep:
        """Write what is finished as the newest sweep of the run, and return it."""
        found = Sweep(self._conditions(), self.ledger.networks())
        with disk_errors(self.folder, GOES_ON):
            write_sweep(self.folder, found)
        return found

    def _changes(self) -> list[str]:
        """Return by which conditions this sweep differs from the newest one."""
        newest, here = read_sweep(self.folder), self._conditions()
        there = newest.conditions if newest else here
        return [
            f"{name} was {there.get(name)} and is {here.get(name)}"
            for name in {**there, **here}
            if name not in SILENT and there.get(name) != here.get(name)
        ]

    def _conditions(self) -> Mapping[str, Any]:
        config = self.run.config
        return {
            "run": self.run.folder.resolve().name,
            "family": config.student.arch,
            "step": self.run.step,
            "branch": self.options.branch,
            "weights": self.weights,
            "dataset": " ".join(filter(None, (config.data.dataset, config.data.path))),
            "image_size": self.evaluation.crop_size,
            "resize_size": self.evaluation.resize_size,
            "decoded_size": config.data.image_size,
            "protocol": self.protocol,
            "data": data_words(config, self.options.temperature),
            "ks": sorted(set(self.ks)),
            "temperature": self.options.temperature,
            "n_train": len(self.splits[0]),
            "n_test": len(self.splits[1]),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
