"""k-NN of a run's networks beside their untrained selves, another run, and raw pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.data import Dataset
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.features import features_of, raw_pixels
from poa_plugin.evaluate.knn import check_votes, fitting_ks, knn_accuracy
from poa_plugin.evaluate.knn_results import KnnResults
from poa_plugin.evaluate.networks import named_networks
from poa_plugin.evaluate.outputs import check_writable
from poa_plugin.evaluate.splits import EvaluationImages, labeled_splits
from poa_plugin.extraction.network import extract
from poa_plugin.runs.results import KnnRow, merge_rows
from poa_plugin.runs.run import Run

MOST_IN_A_GROUP = 32
"""Networks whose features are taken in one pass over the images, if memory suffices."""


def evaluate_knn(
    run: Run,
    names: Sequence[str] = ("all",),
    branch: str = "teacher",
    ks: Sequence[int] | None = None,
    temperature: float = 0.07,
    untrained: bool = False,
    pixels: bool = False,
    reference: Run | None = None,
    memory: int = 4_000_000_000,
    own_data: bool = True,
    to: Path | None = None,
) -> list[KnnRow]:
    """Evaluate a run's networks and add the rows to `RUN/eval/knn.json` and `.csv`.

    Rows are written while others are still evaluated. Warnings about networks that were never trained go to
    stderr.

    Args:
        run: an opened run.
        names: networks, or `all` that were trained.
        branch: `teacher` or `student`.
        ks: numbers of neighbors; those of 10, 20, 100 and 200 that the training images allow if None.
        temperature: see `knn_accuracy`.
        untrained: evaluate the same networks before training, too.
        pixels: evaluate raw pixels, too.
        reference: another run on the same data, whose intact network is evaluated, too.
        memory: bytes: half of it for decoded images, which are kept if they fit, and half for features, of
            one network at least, with the weights of the networks beside them.
        own_data: whether the images are those of the run's configuration.
        to: a folder for the results in the place of `RUN/eval`.

    Returns:
        The new rows.

    Raises:
        UserError: a name is unknown, the data set has no labels, a k or the temperature does not fit, or
            the results cannot be written.
    """
    folder = to or run.folder / "eval"
    check_writable(folder, "knn.json", "knn.csv")
    backbone = run.backbone(branch)
    backbone.check_image_size(run.config.evaluation.crop_size)
    other = None if reference is None else reference.backbone(branch)
    if other is not None:
        other.check_image_size(run.config.evaluation.crop_size)
    subnets = named_networks(run, backbone.space, names)
    splits = labeled_splits(run.config)
    n_train, n_test = map(len, splits)
    ks = fitting_ks(n_train) if ks is None else ks
    check_votes(n_train, n_test, ks, temperature)
    results = KnnResults(folder, run, branch, splits, temperature, own_data)
    classify = _Classifier(run, splits, ks, temperature, memory)
    with results:
        for rows in classify.networks(backbone, subnets, "trained", branch, run.step):
            results.add(rows)
        if untrained:
            before = run.untrained_backbone()
            for rows in classify.networks(before, subnets, "untrained", branch, 0):
                results.add(rows)
        if reference is not None and other is not None:
            intact = [other.space.intact]
            for rows in classify.networks(other, intact, "reference", branch, reference.step):
                results.add([replace(row, network=reference.folder.resolve().name) for row in rows])
        if pixels:
            top1 = classify(
                *(raw_pixels(split, workers=run.config.data.num_workers) for split in splits)
            )
            results.add([KnnRow("raw", "pixels", k, x, n_test=n_test) for k, x in top1.items()])
    return merge_rows([], results.added)


class _Classifier:
    """The two splits of a run's data, and the k-NN on them."""

    def __init__(
        self,
        run: Run,
        splits: tuple[Dataset, Dataset],
        ks: Sequence[int],
        temperature: float,
        memory: int,
    ) -> None:
        self.ks, self.temperature, self.memory = ks, temperature, memory
        self.evaluation = run.config.evaluation
        self.device = resolve_device(run.config.train.device)
        self.labels = [split.labels for split in splits]
        self.n_images, self.n_test = sum(map(len, splits)), len(splits[1])
        workers = run.config.data.num_workers
        self.images = [
            EvaluationImages(
                split, self.evaluation, memory // 2 * len(split) // self.n_images, workers
            )
            for split in splits
        ]

    def __call__(self, train: Tensor, test: Tensor) -> dict[int, float]:
        """Return top-1 by k for features of both splits."""
        return knn_accuracy(
            train,
            self.labels[0],
            test,
            self.labels[1],
            self.ks,
            self.temperature,
            device=self.device,
            memory=self.memory,
        )

    def networks(
        self,
        backbone: ElasticBackbone,
        subnets: Sequence[Subnet],
        kind: str,
        branch: str,
        step: int,
    ) -> Iterator[list[KnnRow]]:
        """Yield the rows of each of a backbone's networks."""
        for group in self._groups(backbone, subnets):
            for subnet, train, test in self._features(backbone, group):
                cost = backbone.space.cost(subnet, self.evaluation.crop_size)
                row = KnnRow(
                    network=subnet.name,
                    kind=kind,
                    k=0,
                    top1=0.0,
                    width=subnet.width,
                    depth=subnet.total_depth,
                    params=cost.params,
                    flops=cost.flops,
                    branch=branch,
                    step=step,
                    n_test=self.n_test,
                )
                yield [replace(row, k=k, top1=top1) for k, top1 in self(train, test).items()]

    def _groups(
        self, backbone: ElasticBackbone, subnets: Sequence[Subnet]
    ) -> Iterator[list[Subnet]]:
        """Yield networks in groups whose features and weights fit into half of the memory."""
        group: list[Subnet] = []
        total = 0
        for subnet in subnets:
            features = backbone.feature_width(subnet) * self.n_images
            params = backbone.space.cost(subnet, self.evaluation.crop_size).params
            needs = 4 * (features + params)
            full = len(group) == MOST_IN_A_GROUP or total + needs > self.memory // 2
            if group and full:
                yield group
                group, total = [], 0
            group, total = [*group, subnet], total + needs
        if group:
            yield group

    def _features(
        self, backbone: ElasticBackbone, group: Sequence[Subnet]
    ) -> Iterator[tuple[Subnet, Tensor, Tensor]]:
        """Yield the networks of a group with their features of both splits, which are dropped then."""
        networks: dict[str, nn.Module] = {
            subnet.name: extract(backbone, subnet).to(self.device) for subnet in group
        }
        size = self.evaluation.batch_size
        train, test = (
            features_of(networks, images.batches(0, size, self.device), self.device)
            for images in self.images
        )
        for subnet in group:
            yield subnet, train.pop(subnet.name), test.pop(subnet.name)
