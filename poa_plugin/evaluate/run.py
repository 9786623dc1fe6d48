"""k-NN of a run's networks beside their untrained selves, another run, and raw pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.data import Dataset
from poa_plugin.device import resolve_device
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.evaluate.features import extract_features, raw_pixels
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.results import KnnRow, merge_rows, read_rows, write_rows
from poa_plugin.evaluate.splits import labelled_splits
from poa_plugin.extract import Run, extract

GROUP = 32
"""Networks whose features are taken in one pass over the images, which bounds the memory."""


def evaluate_knn(
    run: Run,
    names: Sequence[str] = ("all",),
    branch: str = "teacher",
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    untrained: bool = False,
    pixels: bool = False,
    reference: Run | None = None,
) -> list[KnnRow]:
    """Evaluate a run's networks and add the rows to `RUN/eval/knn.json` and `.csv`.

    Args:
        run: an opened run.
        names: networks, or `all`.
        branch: `teacher` or `student`.
        ks, temperature: see `knn_accuracy`.
        untrained: evaluate the same networks before training, too.
        pixels: evaluate raw pixels, too.
        reference: another run on the same data, whose intact network is evaluated, too.

    Returns:
        The new rows.

    Raises:
        UserError: a name is unknown, or the data set has no labels.
    """
    backbone = run.backbone(branch)
    backbone.check_image_size(run.config.evaluation.crop_size)
    space = backbone.space
    subnets = list(space) if list(names) == ["all"] else [space[name] for name in names]
    splits = labelled_splits(run.config)
    classify = _Classifier(run, splits, ks, temperature)
    rows = classify.networks(backbone, subnets, "trained", branch, run.step)
    if untrained:
        rows += classify.networks(run.untrained_backbone(), subnets, "untrained", branch, 0)
    if reference is not None:
        other = reference.backbone(branch)
        intact = [other.space.intact]
        found = classify.networks(other, intact, "reference", branch, reference.step)
        rows += [_renamed(row, reference.folder.name) for row in found]
    if pixels:
        features = [raw_pixels(split) for split in splits]
        rows += [KnnRow("raw", "pixels", k, top1) for k, top1 in classify(*features).items()]
    folder = run.folder / "eval"
    write_rows(folder, merge_rows(read_rows(folder), rows))
    return merge_rows([], rows)


class _Classifier:
    """The two splits of a run's data, and the k-NN on them."""

    def __init__(
        self, run: Run, splits: tuple[Dataset, Dataset], ks: Sequence[int], temperature: float
    ) -> None:
        self.splits, self.ks, self.temperature = splits, ks, temperature
        self.evaluation = run.config.evaluation
        self.device = resolve_device(run.config.train.device)
        self.labels = [split.labels for split in splits]

    def __call__(self, train: Tensor, test: Tensor) -> dict[int, float]:
        """Return top-1 by k for features of both splits."""
        return knn_accuracy(train, self.labels[0], test, self.labels[1], self.ks, self.temperature)

    def networks(
        self,
        backbone: ElasticBackbone,
        subnets: Sequence[Subnet],
        kind: str,
        branch: str,
        step: int,
    ) -> list[KnnRow]:
        """Return the rows of a backbone's networks."""
        return [
            KnnRow(
                network=subnet.name,
                kind=kind,
                k=k,
                top1=top1,
                width=subnet.width,
                depth=subnet.total_depth,
                params=backbone.space.cost(subnet).params,
                flops=backbone.space.cost(subnet, self.evaluation.crop_size).flops,
                branch=branch,
                step=step,
            )
            for subnet, train, test in self._features(backbone, subnets)
            for k, top1 in self(train, test).items()
        ]

    def _features(
        self, backbone: ElasticBackbone, subnets: Sequence[Subnet]
    ) -> Iterator[tuple[Subnet, Tensor, Tensor]]:
        for start in range(0, len(subnets), GROUP):
            group = subnets[start : start + GROUP]
            networks: dict[str, nn.Module] = {
                subnet.name: extract(backbone, subnet).to(self.device) for subnet in group
            }
            train, test = (
                extract_features(networks, split, self.evaluation, self.device)
                for split in self.splits
            )
            for subnet in group:
                yield subnet, train[subnet.name], test[subnet.name]


def _renamed(row: KnnRow, name: str) -> KnnRow:
    return KnnRow(**{**row.__dict__, "network": name})
