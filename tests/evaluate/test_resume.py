"""What evaluations keep: nothing finished is deleted, and nothing finished is evaluated again."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from poa_plugin.errors import UserError
from poa_plugin.evaluate import latency_rows
from poa_plugin.evaluate.conditions import images_checksum
from poa_plugin.evaluate.evaluator import SPLITS, Evaluator
from poa_plugin.evaluate.feature_store import FeatureStore, features_folder
from poa_plugin.evaluate.latency import Latency
from poa_plugin.evaluate.run import EvaluationOptions
from poa_plugin.evaluate.splits import labeled_splits, with_data
from poa_plugin.runs.entries import Series, series_of
from poa_plugin.runs.results import Row
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import Run, open_run
from tests.evaluate.small_runs import swept, trained_run, write_pictures

OPTIONS = EvaluationOptions(widths=(24,), settings={"ks": (1, 3)}, is_sweep=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("resume")).parent


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained / "images", tmp_path / "images")
    shutil.copytree(trained / "run", tmp_path / "run")
    return with_data(open_run(tmp_path / "run"), [str(tmp_path / "images")])


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks whose features are taken, each once."""
    seen: list[str] = []
    append = FeatureStore.append

    def noted(self: FeatureStore, name: str, features: torch.Tensor) -> None:
        if self.split == "train":
            seen.append(name)
        append(self, name, features)

    monkeypatch.setattr(FeatureStore, "append", noted)
    return seen


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], list[str]]]:
    """Have latencies be measured with a spread; returns the list of those that are."""
    seen: list[str] = []

    def with_spread(spread: float) -> list[str]:
        def latencies(networks: object, paths: dict, image: object) -> dict:
            seen.extend(subnet.name for subnet in paths)
            return {subnet: Latency(10.0, spread) for subnet in paths}

        monkeypatch.setattr(latency_rows, "latencies", latencies)
        seen.clear()
        return seen

    yield with_spread


def top1(found: Series) -> dict[str, dict[int, float]]:
    return {entry.network: dict(entry.top1) for entry in found.networks}


def test_threads_and_torch_concern_latencies_alone(
    run: Run,
    evaluated: list[str],
    timed: Callable[[float], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = timed(0.1)
    first = swept(run, replace(OPTIONS, latency=True))
    assert len(evaluated) == len(measured) == 3
    measured = timed(0.2)
    torch.set_num_threads(2)
    second = swept(run, replace(OPTIONS, latency=True))
    assert len(measured) == 3, "measured again, side by side"
    assert {own.latency_spread_ms for own in second.networks} == {0.2}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.99.0")
        third = swept(run, OPTIONS)
        assert {own.latency_ms for own in third.networks} == {None}
    torch.set_num_threads(1)
    measured = timed(0.3)
    again = swept(run, replace(OPTIONS, latency=True))
    assert again == first, "latencies of this device, thread count and torch are still known"
    assert (len(evaluated), measured) == (3, [])
    assert top1(first) == top1(second) == top1(third)


def test_a_renamed_run_and_a_moved_data_set_go_on_with_their_sweep(
    run: Run, tmp_path: Path, evaluated: list[str]
) -> None:
    first = swept(run, OPTIONS)
    shutil.move(tmp_path / "run", tmp_path / "renamed")
    shutil.move(tmp_path / "images", tmp_path / "staged")
    moved = with_data(open_run(tmp_path / "renamed"), [str(tmp_path / "staged")])
    second = swept(moved, OPTIONS)
    assert len(evaluated) == 3
    assert second.networks == first.networks
    shown = [{**own.conditions, "data": ""} for own in (first, second)]
    assert shown[0] == shown[1], "but for the name of the images' folder"


@pytest.mark.parametrize(
    "change", ["data", "branch", "size", "temperature", "ks", "width", "one pixel", "labels"]
)
def test_another_sweep_leaves_a_finished_one_as_it_is(
    run: Run, tmp_path: Path, evaluated: list[str], change: str
) -> None:
    first = swept(run, OPTIONS)
    other, options = run, OPTIONS
    if change == "data":
        other = with_data(run, [str(write_pictures(tmp_path / "other", seed=1))])
    elif change == "one pixel":
        shutil.copytree(tmp_path / "images", tmp_path / "other")
        with Image.open(tmp_path / "other/val/kind0/1.png") as image:
            image.putpixel((5, 5), (0, 255, 0))
            image.save(tmp_path / "other/val/kind0/1.png")
        other = with_data(run, [str(tmp_path / "other")])
    elif change == "labels":
        shutil.copytree(tmp_path / "images", tmp_path / "other")
        for split in ("train", "val"):
            shutil.move(tmp_path / f"other/{split}/kind0", tmp_path / f"other/{split}/kind7")
        other = with_data(run, [str(tmp_path / "other")])
    elif change == "size":
        sizes = ["evaluation.resize_size=16", "evaluation.crop_size=16"]
        other = with_data(run, [str(tmp_path / "images"), *sizes])
    else:
        changes = {
            "branch": {"branch": "student"},
            "temperature": {"settings": {"ks": (1, 3), "temperature": 0.1}},
            "ks": {"settings": {"ks": (1, 2)}},
            "width": {"widths": [40]},
        }
        options = replace(OPTIONS, **changes[change])
    second = swept(other, options)
    assert len(evaluated) == 6, "evaluated anew"
    shown = series_of(read_results(run.folder / "eval"))
    assert second.conditions == shown.conditions, "the newest is shown"
    third = swept(run, OPTIONS)
    assert len(evaluated) == 6, "the first one was still there"
    assert third.conditions == first.conditions
    assert top1(first).items() <= top1(third).items()
    shown = series_of(read_results(run.folder / "eval"))
    assert shown.conditions == third.conditions
    assert set(top1(third)) == set(top1(shown))


def test_fewer_ks_need_no_evaluation(run: Run, evaluated: list[str]) -> None:
    every = swept(run, replace(OPTIONS, settings={"ks": (1, 3, 5)}))
    one = swept(run, replace(OPTIONS, settings={"ks": (3,)}))
    assert len(evaluated) == 3
    assert one.ks == [3]
    assert [own.top1[3] for own in one.networks] == [own.top1[3] for own in every.networks]


def test_a_machine_that_was_busy_is_measured_again(
    run: Run, timed: Callable[[float], list[str]]
) -> None:
    options = replace(OPTIONS, latency=True)
    timed(9.0)
    assert {own.latency_spread_ms for own in swept(run, options).networks} == {9.0}
    measured = timed(1.0)
    assert {own.latency_spread_ms for own in swept(run, options).networks} == {1.0}
    assert len(measured) == 3
    measured = timed(0.5)
    swept(run, options)
    assert measured == []


def test_what_a_former_version_left_stays(
    run: Run, capsys: pytest.CaptureFixture[str], evaluated: list[str]
) -> None:
    eval_ = run.folder / "eval"
    eval_.mkdir()
    sizes = {"width": 24, "depth": 2, "params": 1, "flops": 1}
    network = {"network": "w24_d2", "aliases": [], **sizes, "top1": {"3": 99.0}}
    text = json.dumps({"conditions": {"step": 1, "branch": "teacher"}, "networks": [network]})
    (eval_ / "sweep.json").write_text(text)
    found = swept(run, OPTIONS)
    assert "The sweep of a former version" in capsys.readouterr().out
    assert len(evaluated) == 3
    assert (eval_ / "sweep.json").read_text() == text
    [former] = [row for row in read_results(eval_).rows if row.value == 99.0]
    assert former.series == "former"
    assert set(top1(found)["w24_d2"]) == {1, 3}
    swept(run, OPTIONS)
    assert "former version" not in capsys.readouterr().out
    assert len(evaluated) == 3


def test_two_sweeps_at_once_do_not_share_files(run: Run, evaluated: list[str]) -> None:
    """The second one takes another folder for its features, and the first one's for free if it was killed."""
    seen: list[Path] = []
    append = FeatureStore.append

    def nested(self: FeatureStore, name: str, features: torch.Tensor) -> None:
        seen.append(self.folder)
        if len(seen) == 2:
            results.append(swept(run, OPTIONS))
        append(self, name, features)

    @contextmanager
    def on_disk(self: Evaluator, labels: Row, widths: dict) -> Iterator[list[FeatureStore]]:
        with features_folder(self._features_folder(labels)) as folder:
            yield [FeatureStore(widths, split, folder) for split in SPLITS]

    results: list[Series] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "_stores", on_disk)
        patch.setattr(FeatureStore, "append", nested)
        results.append(swept(run, OPTIONS))
    assert {folder.name for folder in seen} == {"0", "1"}
    assert results[0] == results[1]
    assert not list(run.folder.rglob("*.float16"))


def _sweep(folder: str, images: str, widths: list[int]) -> None:
    torch.set_num_threads(1)
    swept(with_data(open_run(folder), [images]), replace(OPTIONS, widths=widths))


def test_two_processes_at_once(run: Run, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_sweep, args=(str(run.folder), str(tmp_path / "images"), widths))
        for widths in ([24, 32], [32, 24], [40])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert read_results(run.folder / "eval").rows
    found = swept(run, replace(OPTIONS, widths=None))
    assert len(found.networks) == 12
    assert not list(run.folder.rglob("*.partial"))


def test_damaged_results_are_named(run: Run) -> None:
    swept(run, OPTIONS)
    (run.folder / "eval/results.json").write_text('{"top1": 3}')
    with pytest.raises(UserError, match=r"results\.json' cannot be read"):
        swept(run, OPTIONS)


def test_checksums_of_images(run: Run, tmp_path: Path) -> None:
    """Equal for a copy; other for other pixels, names, labels, classes and order."""
    train, test = labeled_splits(run.config)
    assert images_checksum(train) != images_checksum(test)
    copy = with_data(run, [str(shutil.copytree(tmp_path / "images", tmp_path / "copy"))])
    assert images_checksum(labeled_splits(copy.config)[0]) == images_checksum(train)
    other = with_data(run, [str(write_pictures(tmp_path / "other", seed=1))])
    assert images_checksum(labeled_splits(other.config)[0]) != images_checksum(train)
