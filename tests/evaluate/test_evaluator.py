"""Evaluation: what it measures, what it keeps in memory and on disk, and resuming after a kill."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poa_plugin.config.load import default_config
from poa_plugin.errors import UserError
from poa_plugin.evaluate import evaluator
from poa_plugin.evaluate.feature_store import FeatureStore
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.protocol import Score
from poa_plugin.evaluate.run import EvaluationOptions, evaluate_run
from poa_plugin.evaluate.splits import EvaluationImages, labeled_splits, with_data
from poa_plugin.extraction.network import extract
from poa_plugin.registry import DATASETS, PROTOCOLS
from poa_plugin.runs.entries import series_of
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import Run, open_run
from poa_plugin.train.loop import train
from tests.conftest import SMALL, Blobs
from tests.evaluate.small_runs import evaluated, swept, trained_run

QUICK = EvaluationOptions(widths=(24, 32), settings={"ks": (1, 3)}, is_sweep=True)
ON_DISK = replace(QUICK, memory=32_000)
"""A quarter of it is less than the features and the images need, and suffices for some images."""


class Many(Blobs):
    """Enough images for several batches; `path` names a split that is empty or has no labels."""

    def __init__(self, path: str | None, split: str, image_size: int | None) -> None:
        super().__init__(None, split, image_size)
        self.size = 0 if path == f"empty {split}" else 36 if split == "train" else 24
        self.labels = None if path == "unlabeled" else [i % 2 for i in range(self.size)]


if "many_blobs" not in DATASETS:
    DATASETS.register_as("many_blobs")(Many)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "run"
    words = ["data.dataset=many_blobs", f"output_dir={folder}", "optim.epochs=1"]
    words += ["train.OFFICIAL_EPOCH_LENGTH=1", "optim.warmup_epochs=0", "train.threads=1"]
    words += ["evaluation.crop_size=8", "evaluation.resize_size=8", "evaluation.batch_size=10"]
    assert train(default_config([*SMALL, *words])).finished
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(trained, tmp_path / "run"))


class BrokenOffError(Exception):
    pass


def files(run: Run) -> list[bytes]:
    return [(run.folder / "eval" / name).read_bytes() for name in ("results.json", "results.csv")]


def appended(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tensor]]:
    """Return, by split and network, what goes into the stores from now on."""
    seen: dict[str, list[Tensor]] = {}
    append = FeatureStore.append

    def noted(self: FeatureStore, name: str, features: Tensor) -> None:
        seen.setdefault(f"{self.split} {name}", []).append(features.clone())
        append(self, name, features)

    monkeypatch.setattr(FeatureStore, "append", noted)
    return seen


def test_a_sweep_finds_what_single_evaluations_find(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = appended(monkeypatch)
    found = swept(run, QUICK)
    backbone, splits = run.backbone(), labeled_splits(run.config)
    assert [e.network for e in found.networks] == [subnet.name for subnet in backbone.space][:6]
    for entry in found.networks:
        subnet = backbone.space[entry.network]
        network = extract(backbone, subnet)
        both = []
        for name, split in zip(("train", "test"), splits, strict=True):
            images = EvaluationImages(split, run.config.evaluation, 0)
            with torch.no_grad():
                batches = [network(x)["x_norm_clstoken"] for x in images.batches(0, 10)]
            alone = torch.cat(batches)
            assert torch.allclose(torch.cat(seen[f"{name} {entry.network}"]), alone, atol=1e-5)
            both.append(torch.nn.functional.normalize(alone).half())
        train, test = (split.labels for split in splits)
        assert entry.top1 == knn_accuracy(both[0], train, both[1], test, [1, 3])
        assert (entry.width, entry.depth) == (subnet.width, subnet.depth)
        assert entry.params == sum(p.numel() for p in network.parameters())
        assert entry.flops == backbone.space.cost(subnet, 8).flops
        assert entry.latency_ms is None
        assert entry.n_test == {1: 24, 3: 24}
    assert found.networks[0].aliases == ("smallest",)
    expected = {"step": 1, "branch": "teacher", "n_test": 24, "n_train": 36, "crop_size": 8}
    expected |= {"data": "many_blobs, 8 of 8 pixels, temperature 0.07", "by": "poa sweep"}
    assert expected.items() <= found.conditions.items()
    assert series_of(read_results(run.folder / "eval")) == found


def test_features_on_the_disk_give_the_same_results(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_run(shutil.copytree(trained, tmp_path / "other/run"))
    swept(run, QUICK)
    seen = appended(monkeypatch)
    swept(other, ON_DISK)
    assert files(run) == files(other)
    assert len(seen["train w32_d4"]) == 18, "the batch was to be small"
    assert not list(other.folder.rglob("*.float16"))


@pytest.mark.parametrize("options", [QUICK, ON_DISK], ids=["memory", "disk"])
@pytest.mark.parametrize("moment", ["features", "classifying"])
def test_a_sweep_that_broke_off_goes_on(
    run: Run,
    trained: Path,
    tmp_path: Path,
    options: EvaluationOptions,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = open_run(shutil.copytree(trained, tmp_path / "whole/run"))
    with monkeypatch.context() as patch:
        batches = appended(patch)
        swept(whole, options)
    total = {name: len(parts) for name, parts in batches.items()}

    def breaks(name: str) -> None:
        times[name] += 1
        if name == "w32_d3" and times[name] == 3:
            raise BrokenOffError

    times: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        before = appended(patch)
        if moment == "features":
            append = FeatureStore.append
            patch.setattr(
                FeatureStore, "append", lambda self, n, x: breaks(n) or append(self, n, x)
            )
        else:
            read, times["w32_d3"] = FeatureStore.read, 2
            patch.setattr(FeatureStore, "read", lambda self, n: breaks(n) or read(self, n))
        with pytest.raises(BrokenOffError):
            swept(run, options)
    with monkeypatch.context() as patch:
        after = appended(patch)
        swept(run, options)
    assert files(run) == files(whole)
    assert not any("w24" in name for name in after), "a finished width was run again"
    parts = Counter({name: len(x) for name, x in before.items()})
    parts.update({name: len(x) for name, x in after.items()})
    again = {name: parts[name] - total[name] for name in total if parts[name] != total[name]}
    if moment == "features" and options is ON_DISK:
        assert again == {"train w32_d2": 1}, "it had the third batch when the next network broke"
    elif moment == "features":
        assert again == {"train w32_d2": 3, "train w32_d3": 2, "train w32_d4": 2}
    elif options is ON_DISK:
        assert again == {}, "all features were there"
    else:
        assert all("w32_d2" not in name for name in after), "it was finished"


@pytest.mark.slow
def test_killed_by_the_system(run: Run, trained: Path, tmp_path: Path) -> None:
    whole = open_run(shutil.copytree(trained, tmp_path / "whole/run"))
    swept(whole, ON_DISK)
    script = (
        "import os, signal, sys\n"
        "import tests.evaluate.test_evaluator as t\n"
        "t.torch.set_num_threads(1)\n"
        "append, times = t.FeatureStore.append, []\n"
        "def killing(self, name, features):\n"
        "    times.append(name)\n"
        "    append(self, name, features)\n"
        "    if len(times) == 130:\n"
        "        with self._file(name).open('ab') as file:\n"
        "            file.write(b'half a row')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.FeatureStore.append = killing\n"
        "t.swept(t.open_run(sys.argv[1]), t.ON_DISK)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(run.folder)], cwd=root)
    assert done.returncode == -signal.SIGKILL
    assert (run.folder / "eval/results.json").read_bytes() != files(whole)[0]
    assert list((run.folder / "eval/features").rglob("*.float16"))
    swept(run, ON_DISK)
    assert files(run) == files(whole)


def test_what_is_finished_is_not_done_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = swept(run, replace(QUICK, widths=[40, 24, 40]))
    assert {entry.width for entry in some.networks} == {24, 40}
    assert "6 networks: 12 modules run for each image in place of 18 (0.67)." in _out(capsys)
    options = replace(QUICK, widths=None)
    found = swept(run, options)
    assert found.networks[:3] == some.networks[:3]
    assert "6 networks were finished before" in _out(capsys)
    assert len(found.networks) == 12

    def refuse(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        folders: list[Path] = []
        folder_of = evaluator.Evaluator._features_folder
        patch.setattr(
            evaluator.Evaluator,
            "_features_folder",
            lambda self, row: folders.append(folder_of(self, row)) or folders[-1],
        )
        swept(run, options)
    left = folders[0] / "0/test_w48_d2.float16"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a sweep that was killed after it had written the network's rows")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "deepest_network", refuse)
        assert swept(run, options) == found
    assert not left.exists()
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "append", refuse)
        timed = swept(run, replace(options, latency=True))
    assert all(e.latency_ms is not None and e.latency_ms > 0 for e in timed.networks)
    assert all(entry.latency_spread_ms is not None for entry in timed.networks)
    untimed = {"latency_ms": None, "latency_spread_ms": None}
    assert [replace(entry, **untimed) for entry in timed.networks] == found.networks
    assert swept(run, options) == timed


def test_other_conditions_start_anew(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    swept(run, replace(QUICK, widths=[24]))
    student = replace(QUICK, widths=[32], settings={"ks": (1, 5)}, branch="student")
    found = swept(run, student)
    said = "Starting the sweep anew: branch was teacher and is student. The former one stays."
    assert said in _out(capsys)
    assert {entry.width for entry in found.networks} == {32}
    other = with_data(run, ["evaluation.resize_size=16", "evaluation.crop_size=16"])
    swept(other, replace(QUICK, widths=[24]))
    assert "resize_size was 8 and is 16; crop_size was 8 and is 16" in _out(capsys)


def test_what_is_wrong_is_said(run: Run) -> None:
    with pytest.raises(UserError, match="has the width 30: the nearest is 32, and the widths are"):
        swept(run, replace(QUICK, widths=[24, 30]))
    with pytest.raises(UserError, match="k must be between 1 and the 36 training samples"):
        swept(run, replace(QUICK, settings={"ks": (1, 37)}))
    with pytest.raises(UserError, match=r"--memory is too small: .* give at least 15360"):
        swept(run, replace(QUICK, memory=1000))
    for path, said in [
        ("unlabeled", "'many_blobs' has no labels"),
        ("empty train", "'many_blobs' has no training images"),
        ("empty test", "'many_blobs' has no test images"),
    ]:
        with pytest.raises(UserError, match=said):
            swept(with_data(run, [path]), QUICK)
    with pytest.raises(UserError, match=r"--data takes a path, .* not 'train\.seed=1'"):
        with_data(run, ["/images", "train.seed=1"])
    with pytest.raises(UserError, match=r"did you mean 'data\.dataset'"):
        with_data(run, ["data.datasset=x"])
    with pytest.raises(UserError, match="crop_size' is 24: it must not exceed"):
        swept(with_data(run, ["evaluation.crop_size=24"]), QUICK)
    with pytest.raises(UserError, match="20 x 20 pixels do not divide into patches of 8"):
        swept(with_data(run, ["evaluation.resize_size=20", "evaluation.crop_size=20"]), QUICK)


@pytest.mark.parametrize(
    ("family", "crop", "batch", "widths"),
    [("vit", 24, 3, [24, 48]), ("swin", 32, 256, [8, 16]), ("resnet", 32, 2, [8, 12])],
)
def test_the_memory_that_is_asked_for_suffices(
    tmp_path: Path, family: str, crop: int, batch: int, widths: list[int]
) -> None:
    """Before anything is evaluated the need of the widest is known; a byte less does not suffice."""
    words = [f"evaluation.batch_size={batch}"]
    run = open_run(trained_run(tmp_path, *words, family=family, crop=crop))
    options = replace(QUICK, widths=widths, memory=1, settings={"ks": (1,)})
    with pytest.raises(UserError, match="give at least ") as raised:
        swept(run, options)
    enough = int(str(raised.value).removesuffix(".").split()[-1])
    with pytest.raises(UserError, match=f"give at least {enough}"):
        swept(run, replace(options, memory=enough - 1))
    assert not (run.folder / "eval/results.json").exists()
    found = swept(run, replace(options, memory=enough))
    assert {entry.width for entry in found.networks} == set(widths)


def test_a_full_disk_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore({"w8_d2": 8}, "train", Path("/dev"))
    monkeypatch.setattr(store, "_file", lambda name: Path("/dev/full"))
    with pytest.raises(UserError, match="the disk is full"):
        store.append("w8_d2", torch.ones(2, 8))


def test_images_are_decoded_once_if_there_is_room(run: Run) -> None:
    class Counted(Many):
        reads = 0

        def image(self, index: int) -> Tensor:
            self.reads += 1
            return super().image(index)

    def read(memory: int) -> tuple[int, Sequence[Tensor]]:
        dataset = Counted(None, "test", None)
        images = EvaluationImages(dataset, run.config.evaluation, memory)
        first, second = list(images.batches(0, 10)), list(images.batches(0, 10))
        assert [len(x) for x in first] == [10, 10, 4]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        return dataset.reads, first

    size = 24 * 3 * 8 * 8
    (once, kept), (twice, not_kept) = read(size), read(size - 1)
    assert (once, twice) == (24, 48)
    assert all(torch.equal(a, b) for a, b in zip(kept, not_kept, strict=True))


def _out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize("memory", [10**9, 80_000])
def test_pixels_untrained_networks_and_references_are_bounded_and_resumed(
    run: Run, trained: Path, tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All go through the same stores; what is finished is not evaluated again by either command."""
    other = open_run(shutil.copytree(trained, tmp_path / "other"))
    options = {"untrained": True, "pixels": True, "reference": other, "memory": memory}
    on_disk: set[str] = set()
    append = FeatureStore.append

    def noted(self: FeatureStore, name: str, features: Tensor) -> None:
        on_disk.update([name] * (self.folder is not None))
        append(self, name, features)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "append", noted)
        rows = evaluated(run, ["w24_d2", "w24_d3"], ks=(1, 3), **options)
    assert on_disk == ({"raw"} if memory < 10**9 else set())
    kinds = Counter(row.kind for row in rows)
    assert kinds == {"trained": 4, "untrained": 4, "reference": 2, "pixels": 2}
    assert {row.network for row in rows if row.kind == "reference"} == {"other"}
    assert {row.n for row in rows} == {24}
    assert not list(run.folder.rglob("*.float16"))

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(FeatureStore, "append", refuse)
    assert evaluated(run, ["w24_d2", "w24_d3"], ks=(3, 1), **options) != []
    assert swept(run, replace(QUICK, networks=["w24_d2", "w24_d3"])).ks == [1, 3]


def test_pixels_that_broke_off_are_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = evaluated(run, ["intact"], pixels=True, to=run.folder / "a")[1:]
    append, times = FeatureStore.append, []

    def breaks(self: FeatureStore, name: str, features: Tensor) -> None:
        times.append(name)
        if times.count("raw") == 5:
            raise BrokenOffError
        append(self, name, features)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "append", breaks)
        with pytest.raises(BrokenOffError):
            evaluated(run, ["intact"], pixels=True, memory=80_000)
    seen = appended(monkeypatch)
    [resumed] = evaluated(run, ["intact"], pixels=True, memory=80_000)[1:]
    assert resumed.value == whole.value
    assert [len(part) for part in seen["test raw"]] == [8]
    assert [len(part) for part in seen["train raw"]] == [4]


class NearestMean:
    """A protocol of somebody else's: the class whose mean is nearest."""

    name, conditions, phrase, metrics = "nearest_mean", {"distance": "cosine"}, "means", ["top1"]

    def __init__(self, train: Many, test: Many) -> None:
        self.labels = [torch.tensor(split.labels) for split in (train, test)]

    def __call__(
        self, train: Tensor, test: Tensor, device: torch.device, memory: int
    ) -> dict[str, Score]:
        classes = self.labels[0].unique()
        means = torch.stack([train[self.labels[0] == c].float().mean(0) for c in classes])
        nearest = classes[(test.float() @ means.T).argmax(1)]
        return {"top1": Score(100 * float((nearest == self.labels[1]).float().mean()), None)}


def test_a_protocol_plugs_in_with_one_class(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS._obj_map, "nearest_mean", NearestMean)
    options = EvaluationOptions(["w24_d2", "w24_d3"], protocol="nearest_mean")
    rows = evaluate_run(run, options).rows
    assert [(row.protocol, row.metric, row.standard_error) for row in rows] == [
        ("nearest_mean", "top1", None)
    ] * 2
    assert all(0 <= row.value <= 100 and row.n == 24 for row in rows)
    assert rows[0].data == "many_blobs, 8 of 8 pixels, means"
    neighbors = evaluated(run, ["w24_d2"])
    assert read_results(run.folder / "eval").rows == [*rows, *neighbors]
    assert evaluate_run(run, options).rows == rows
