"""Networks evaluated under a protocol: features in bounded memory, and rows as networks are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from poa_plugin.backbones.base import PlainNetwork
from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.evaluate.conditions import image_conditions, images_phrase
from poa_plugin.evaluate.crops import resized_square
from poa_plugin.evaluate.decoding import CHUNK, decoded
from poa_plugin.evaluate.feature_store import (
    ENDING,
    FeatureStore,
    features_folder,
    remove_leftovers,
)
from poa_plugin.evaluate.networks import by_width
from poa_plugin.evaluate.progress import ProgressBar
from poa_plugin.evaluate.protocol import EvaluationProtocol
from poa_plugin.evaluate.source import Source
from poa_plugin.evaluate.splits import EvaluationImages, Splits
from poa_plugin.evaluate.tree import PrefixTree, bytes_per_image, deepest_network
from poa_plugin.files import disk_errors
from poa_plugin.runs.results import Network, Row, by_key, conditions_name
from poa_plugin.runs.results_file import add_results, read_results

SPLITS = ("train", "test")
RESUME = "What was finished before stands; mend that, and the same command resumes."
PIXELS = Row("raw", "pixels", "", 0, "", "", "", 0.0)
PIXELS_SIDE = 32


class Evaluator:
    """Evaluates networks on two data sets; what is finished is in the results, and is not done again.

    Several processes may evaluate networks of one run at the same time.

    Args:
        config: image sizes, batch size, device and worker processes.
        splits: training and test images.
        protocol: what is made of their features.
        folder: for results, and for features that do not fit into memory.
        memory: bytes, of which a quarter each is for the activations of a batch, for decoded images, for
            features, and, while no network runs, two quarters for the protocol.
        by: the command, for the rows.
        adopt: whether rows of earlier versions, which recorded no images, are of these.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        protocol: EvaluationProtocol,
        folder: Path,
        memory: int = 4_000_000_000,
        by: str = "poa eval knn",
        adopt: bool = True,
    ) -> None:
        self.config, self.splits, self.protocol = config, splits, protocol
        self.folder, self.quarter, self.by = folder, memory // 4, by
        self.device = resolve_device(config.train.device)
        self.n_images = sum(map(len, splits))
        self.images = [
            EvaluationImages(
                split,
                config.evaluation,
                self.quarter * len(split) // self.n_images,
                config.data.num_workers,
            )
            for split in splits
        ]
        self.image_conditions = image_conditions(config, splits)
        conditions = {**self.image_conditions, **protocol.conditions}
        self.series = conditions_name(conditions)
        self.conditions = {**conditions, "series": self.series, "n_train": len(splits[0]), "by": by}
        self.adopt = self.series if adopt else "former"
        self.results = read_results(folder)

    def rows(self, labels: Row) -> list[Row]:
        """Return the rows of a network, without values, one for each metric.

        Args:
            labels: the network's, as `Source.row` returns them.
        """
        row = replace(
            labels,
            protocol=self.protocol.name,
            data=f"{images_phrase(self.config)}, {self.protocol.phrase}",
            n=len(self.splits[1]),
            conditions={**labels.conditions, **self.conditions},
        )
        return [replace(row, metric=metric) for metric in self.protocol.metrics]

    def finished(self, labels: Row) -> list[Row] | None:
        """Return the rows of a network if all are there."""
        rows = [self.results.by_key.get(key) for key in by_key(self.rows(labels))]
        return [row for row in rows if row is not None] if None not in rows else None

    def missing(self, source: Source) -> list[Subnet]:
        """Return the members that are not finished."""
        return [subnet for subnet in source.subnets if not self.finished(source.row(subnet))]

    def evaluate(self, sources: Sequence[Source], pixels: bool = False) -> None:
        """Evaluate networks, those of one width by traversing their prefix tree once.

        Raises:
            UserError: the memory does not suffice for one image, or the results cannot be written.
        """
        self._check_memory(sources)
        widths = [(s, members) for s in sources for members in by_width(s.subnets).values()]
        with ProgressBar((len(widths) + pixels) * self.n_images) as progress:
            for source, members in widths:
                self.refresh()
                missing = self.missing(replace(source, subnets=members))
                if missing:
                    self._evaluate_width(replace(source, subnets=missing), progress)
                else:
                    progress.advance(self.n_images)
            if pixels and not self.finished(PIXELS):
                self._evaluate_pixels(progress)
        for source in sources:
            names = [subnet.name for subnet in source.subnets]
            remove_leftovers(self._features_folder(source.row(source.subnets[0])), names)

    def add(self, rows: Sequence[Row], networks: Sequence[Network] = ()) -> None:
        """Write rows into the results."""
        with disk_errors(self.folder, RESUME):
            self.results = add_results(self.folder, rows, networks, self.adopt)

    def refresh(self) -> None:
        """Read the results, to which other processes may have added."""
        self.results = read_results(self.folder)

    @cached_property
    def image(self) -> Tensor:
        """The first training image, (1, 3, c, c) on the device."""
        return self.images[0].first().to(self.device)

    def _check_memory(self, sources: Sequence[Source]) -> None:
        """Raise a `UserError` before anything is evaluated if a width's batch cannot hold one image."""
        most = 0
        for source in sources:
            for width, members in by_width(self.missing(source)).items():
                network = deepest_network(source.backbone, width).to(self.device)
                tree = PrefixTree.of(source.backbone, members)
                most = max(most, bytes_per_image(tree, network, self.image))
        if most > self.quarter:
            raise UserError(
                f"--memory is too small: a quarter of it is for the outputs of blocks, and one image needs "
                f"{most} bytes; give at least {4 * most}."
            )

    def _features_folder(self, labels: Row) -> Path:
        """Return where features of a source go that do not fit into memory."""
        state = {"kind": labels.kind, "branch": labels.branch, "step": labels.step}
        conditions = {**self.image_conditions, **labels.conditions, **state}
        return self.folder / "features" / conditions_name(conditions)

    @torch.inference_mode()
    def _evaluate_width(self, source: Source, progress: ProgressBar) -> None:
        """Take the features of members of one width, and what the protocol makes of them."""
        width = source.subnets[0].width
        network = deepest_network(source.backbone, width).to(self.device)
        tree = PrefixTree.of(source.backbone, source.subnets)
        widths = {s.name: source.backbone.feature_width(s) for s in source.subnets}
        batch = self._batch_size(tree, network)
        with self._stores(source.row(source.subnets[0]), widths) as stores:
            for images, store in zip(self.images, stores, strict=True):
                progress.say(f"width {width}: features of {store.split} images")
                done = store.resume(batch)
                progress.advance(done)
                for x in images.batches(done, batch, self.device):
                    for subnet, features in tree.traverse(network, x):
                        store.append(subnet.name, features)
                    progress.advance(len(x))
            for subnet in source.subnets:
                progress.say(f"{subnet.name}: {self.protocol.name}")
                self._score(
                    source.row(subnet),
                    [source.network(subnet, self.config.evaluation.crop_size)],
                    stores,
                    subnet.name,
                )

    def _batch_size(self, tree: PrefixTree, network: PlainNetwork) -> int:
        fitting = self.quarter // bytes_per_image(tree, network, self.image)
        return min(max(1, fitting), self.config.evaluation.batch_size)

    def _evaluate_pixels(self, progress: ProgressBar) -> None:
        """Take the images themselves for features."""
        progress.say("raw pixels")
        with self._stores(PIXELS, {PIXELS.network: 3 * PIXELS_SIDE**2}) as stores:
            for split, store in zip(self.splits, stores, strict=True):
                done = store.resume(CHUNK)
                progress.advance(done)
                for features in raw_pixels(split, done, self.config.data.num_workers):
                    store.append(PIXELS.network, features)
                    progress.advance(len(features))
            self._score(PIXELS, [], stores, PIXELS.network)

    @contextmanager
    def _stores(self, labels: Row, widths: Mapping[str, int]) -> Iterator[list[FeatureStore]]:
        """Give the stores of both splits: in memory if they fit, unless some were begun on the disk."""
        folder = self._features_folder(labels)
        fit = 2 * sum(widths.values()) * self.n_images <= self.quarter
        in_memory = fit and not any(folder.glob(f"*/*{ENDING}"))
        with nullcontext() if in_memory else features_folder(folder) as place:
            yield [FeatureStore(widths, split, place) for split in SPLITS]

    def _score(
        self, labels: Row, networks: Sequence[Network], stores: Sequence[FeatureStore], name: str
    ) -> None:
        """Have the protocol score a network's features, write the rows, and drop the features."""
        train, test = (store.read(name) for store in stores)
        scores = self.protocol(train, test, self.device, 2 * self.quarter)
        rows = [replace(row, **scores[row.metric]._asdict()) for row in self.rows(labels)]
        self.add(rows, networks)
        for store in stores:
            store.drop(name)


def raw_pixels(dataset: Dataset, start: int = 0, workers: int = 0) -> Iterator[Tensor]:
    """Yield the images from an index on, `CHUNK` at a time, as (B, 3 * side * side) float32 features in 0..1.

    Gray images are repeated in three channels, so that data sets may hold both kinds; cosines
    between gray images stay what they are.
    """
    for chunk in decoded(dataset, partial(resized_square, size=PIXELS_SIDE), start, workers):
        yield chunk.expand(-1, 3, -1, -1).flatten(1).float() / 255
