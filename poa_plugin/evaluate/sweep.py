"""Every sub-network of a run evaluated, the networks of one width in one walk of their prefix tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from poa_plugin.backbones.base import PlainNetwork
from poa_plugin.config.load import load_config
from poa_plugin.config.values import is_word
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError
from poa_plugin.evaluate.feature_store import FeatureStore, remove_features
from poa_plugin.evaluate.knn import check_votes, knn_accuracy
from poa_plugin.evaluate.latency import device_name, latencies
from poa_plugin.evaluate.ledger import Ledger
from poa_plugin.evaluate.progress import ProgressBar
from poa_plugin.evaluate.splits import EvaluationImages, labelled_splits
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep, write_sweep
from poa_plugin.evaluate.tree import PrefixTree, bytes_per_image, deepest_network
from poa_plugin.extract import Run
from poa_plugin.files import disk_errors

SPLITS = ("train", "test")


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is made.

    Attributes:
        widths: whose networks are evaluated; all if None.
        branch: `teacher` or `student`.
        ks, temperature: see `knn_accuracy`.
        memory: bytes, of which a quarter each is for the activations of a batch, for decoded images, for
            features, and for the similarities of k-NN.
        latency: whether it is measured.
    """

    widths: Sequence[int] | None = None
    branch: str = "teacher"
    ks: Sequence[int] = (10, 20, 100, 200)
    temperature: float = 0.07
    memory: int = 4_000_000_000
    latency: bool = True

    @property
    def room(self) -> int:
        """Bytes for each of the four."""
        return self.memory // 4


def sweep_run(run: Run, options: SweepOptions) -> Sweep:
    """Evaluate a run's networks with k-NN; write `RUN/eval/sweep.json` and `.csv` after each width.

    What an earlier call under the same conditions finished is not done again.

    Returns:
        All networks that are finished, those of earlier calls among them.

    Raises:
        UserError: a width is unknown, the data set is empty or has no labels, there are fewer training
            images than the largest k, or the memory does not suffice for one image.
    """
    return _Sweeper(run, options).sweep()


def with_data(run: Run, words: Sequence[str]) -> Run:
    """Return a run with another data set or other image sizes for its evaluation.

    Args:
        run: an opened run.
        words: `data.` and `evaluation.` keys as `key=value`; a word without a key is `data.path`.

    Raises:
        UserError: a key is of another section, or unknown.
    """
    if not words:
        return run
    words = [word if is_word(word) else f"data.path={word}" for word in words]
    for word in words:
        if not word.startswith(("data.", "evaluation.")):
            raise UserError(
                f"--data takes a path, and keys of the sections data and evaluation such as "
                f"data.dataset=imagenet, not '{word}'."
            )
    return dataclasses.replace(run, config=load_config(run.folder / "config.yaml", words))


class _Sweeper:
    """A sweep under way: what all widths have in common."""

    def __init__(self, run: Run, options: SweepOptions) -> None:
        self.run, self.options = run, options
        self.evaluation = run.config.evaluation
        self.backbone = run.backbone(options.branch)
        self.backbone.check_image_size(self.evaluation.crop_size)
        self.space = self.backbone.space
        self.widths = _known_widths(self.space, options.widths)
        self.splits = labelled_splits(run.config)
        n_train, n_test = map(len, self.splits)
        check_votes(n_train, n_test, options.ks, options.temperature)
        self.images = [
            EvaluationImages(split, self.evaluation, options.room * len(split) // self._n_images)
            for split in self.splits
        ]
        self.device = resolve_device(run.config.train.device)
        self.ledger = Ledger(run.folder / "eval/sweep", self._conditions(), self.space)

    def sweep(self) -> Sweep:
        """See `sweep_run`."""
        members = {width: [s for s in self.space if s.width == width] for width in self.widths}
        trees = [PrefixTree.of(self.backbone, own) for own in members.values()]
        steps, single = sum(map(len, trees)), sum(tree.single_steps for tree in trees)
        before = sum(subnet in self.ledger for own in members.values() for subnet in own)
        print(
            f"{sum(map(len, members.values()))} networks: {steps} modules run for each image in place "
            f"of {single} ({steps / single:.2f})"
            + (f"; {before} networks were finished before." if before else "."),
            flush=True,
        )
        with ProgressBar(len(members) * self._n_images) as progress:
            for width, own in members.items():
                missing = [subnet for subnet in own if subnet not in self.ledger]
                unmeasured = self.options.latency and any(
                    subnet in missing or self.ledger[subnet].latency_ms is None for subnet in own
                )
                if missing or unmeasured:
                    network = deepest_network(self.backbone, width).to(self.device)
                    self._evaluate(missing, network, progress)
                    if unmeasured:
                        progress.say(f"width {width}: latency")
                        self._measure(own, network)
                remove_features(self.ledger.folder, [subnet.name for subnet in own])
                with disk_errors(self.run.folder):
                    write_sweep(self.run.folder / "eval", self.ledger.sweep())
        return self.ledger.sweep()

    @property
    def _n_images(self) -> int:
        return sum(map(len, self.splits))

    @torch.inference_mode()
    def _evaluate(
        self, members: Sequence[Subnet], network: PlainNetwork, progress: ProgressBar
    ) -> None:
        """Take the features of members of one width and classify by them."""
        if not members:
            progress.advance(self._n_images)
            return
        tree = PrefixTree.of(self.backbone, members)
        batch, stores = self._batch(tree, network), self._stores(members)
        for images, store in zip(self.images, stores, strict=True):
            progress.say(f"width {members[0].width}: features of {store.split} images")
            done = store.resume(batch)
            progress.advance(done)
            for x in images.batches(done, batch):
                for subnet, features in tree.walk(network, x.to(self.device)):
                    store.append(subnet.name, features)
                progress.advance(len(x))
        for subnet in members:
            progress.say(f"{subnet.name}: k-NN")
            self.ledger.add(self._classify(subnet, stores))
            for store in stores:
                store.drop(subnet.name)

    def _batch(self, tree: PrefixTree, network: PlainNetwork) -> int:
        """Return how many images are walked at a time: as many as fit, at most the configuration's."""
        each = bytes_per_image(tree, network, self._image())
        fitting = self.options.room // each
        if not fitting:
            raise UserError(
                f"--memory is too small: a quarter of it is for the walk, and one image needs {each} "
                f"bytes; give at least {4 * each}."
            )
        return min(fitting, self.evaluation.batch_size)

    def _stores(self, members: Sequence[Subnet]) -> list[FeatureStore]:
        """Return where the features go; what was begun on the disk goes on there."""
        widths = {subnet.name: self.backbone.feature_width(subnet) for subnet in members}
        stores = [FeatureStore(widths, split, self.ledger.folder) for split in SPLITS]
        fit = 2 * sum(widths.values()) * self._n_images <= self.options.room
        if fit and not any(store.has_files() for store in stores):
            return [FeatureStore(widths, split, None) for split in SPLITS]
        return stores

    def _classify(self, subnet: Subnet, stores: Sequence[FeatureStore]) -> NetworkResult:
        features = [store.read(subnet.name) for store in stores]
        train, test = (split.labels for split in self.splits)
        similarities = max(1, self.options.room // (32 * len(features[0])))
        ks, temperature = self.options.ks, self.options.temperature
        cost = self.space.cost(subnet, self.evaluation.crop_size)
        return NetworkResult(
            network=subnet.name,
            aliases=tuple(self.space.aliases_of(subnet)),
            width=subnet.width,
            depth=subnet.total_depth,
            params=cost.params,
            flops=cost.flops,
            top1=knn_accuracy(
                features[0], train, features[1], test, ks, temperature, min(1024, similarities)
            ),
        )

    def _measure(self, members: Sequence[Subnet], network: PlainNetwork) -> None:
        """Add latencies to what is known of all members of a width, measured side by side."""
        paths = {subnet: self.backbone.member_path(subnet) for subnet in members}
        measured = latencies(network, paths, self._image())
        self.ledger.add(
            *(
                dataclasses.replace(self.ledger[subnet], latency_ms=milliseconds)
                for subnet, milliseconds in measured.items()
            )
        )

    def _image(self) -> torch.Tensor:
        return next(self.images[0].batches(0, 1)).to(self.device)

    def _conditions(self) -> dict[str, Any]:
        config = self.run.config
        return {
            "run": self.run.folder.resolve().name,
            "family": config.student.arch,
            "step": self.run.step,
            "branch": self.options.branch,
            "dataset": " ".join(filter(None, (config.data.dataset, config.data.path))),
            "image_size": self.evaluation.crop_size,
            "resize_size": self.evaluation.resize_size,
            "decoded_size": config.data.image_size,
            "ks": sorted(set(self.options.ks)),
            "temperature": self.options.temperature,
            "n_train": len(self.splits[0]),
            "n_test": len(self.splits[1]),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def _known_widths(space: SearchSpace, wanted: Sequence[int] | None) -> list[int]:
    """Return the widths to sweep in increasing order, each once."""
    for width in wanted or ():
        if width not in space.widths:
            nearest = min(space.widths, key=lambda known: abs(known - width))
            known = ", ".join(map(str, space.widths))
            raise UserError(
                f"No network has the width {width}: the nearest is {nearest}, and the widths are {known}."
            )
    return space.widths if wanted is None else sorted(set(wanted))
