"""`evaluate_knn`: what it holds at once, what it writes when, and what it finds out before it starts."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.evaluate import run as evaluate_run
from poa_plugin.evaluate import sweep as evaluate_sweep
from poa_plugin.evaluate.results import read_rows, write_rows
from poa_plugin.evaluate.run import evaluate_knn
from poa_plugin.evaluate.splits import EvaluationImages, with_data
from poa_plugin.evaluate.sweep import SweepOptions, sweep_run
from poa_plugin.extract import Run, open_run
from tests.command_checks import as_another_user, fails, open_folder, tree
from tests.evaluate.small_runs import N_TEST, N_TRAIN, trained_run, write_pictures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("knn"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(trained, tmp_path / "run"))


def test_memory_bounds_the_networks_of_one_pass(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    decoded: list[int] = []
    features_of, crops = evaluate_run.features_of, EvaluationImages._crops

    def noted(networks: dict, *rest: object) -> dict:
        groups.append(len(networks))
        return features_of(networks, *rest)

    def counted(self: EvaluationImages, start: int) -> object:
        decoded.append(not self._kept)
        return crops(self, start)

    monkeypatch.setattr(evaluate_run, "features_of", noted)
    monkeypatch.setattr(EvaluationImages, "_crops", counted)
    names = ["w24_d2", "w24_d3", "w32_d2", "w32_d3"]
    rows = evaluate_knn(run, names, ks=[1])
    assert (groups, decoded) == ([4, 4], [1, 1])
    two = 2 * 4 * 2 * (run.space.cost(run.space["w32_d3"]).params + 32 * 20)
    for memory, sizes, decodes_once in ((1, [1] * 8, False), (two, [3, 3, 1, 1], True)):
        groups.clear()
        decoded.clear()
        assert evaluate_knn(run, names, ks=[1], memory=memory) == rows
        assert groups == sizes
        assert (sum(decoded) == 2) is decodes_once


def test_rows_are_written_as_they_are_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenOffError(Exception):
        pass

    real, calls = evaluate_run.knn_accuracy, []

    def breaks(*arguments: object, **rest: object) -> dict:
        calls.append(1)
        if len(calls) == 4:
            raise BrokenOffError
        return real(*arguments, **rest)

    monkeypatch.setattr(evaluate_run, "knn_accuracy", breaks)
    with pytest.raises(BrokenOffError):
        evaluate_knn(run, ks=[1, 3])
    rows = read_rows(run.folder / "eval")
    assert {row.network for row in rows} == {"w24_d2", "w24_d3", "w24_d4"}
    assert {row.n_test for row in rows} == {2 * N_TEST}


def test_the_test_images_are_counted_in_every_row(run: Run) -> None:
    rows = evaluate_knn(run, ["intact"], untrained=True, pixels=True, reference=run)
    assert {row.kind for row in rows} == {"trained", "untrained", "reference", "pixels"}
    assert {row.n_test for row in rows} == {2 * N_TEST}
    assert {row.k for row in rows} == {10}, "of 10, 20, 100 and 200 that fits 12 training images"


def test_ks_that_fit_are_the_default(run: Run, tmp_path: Path) -> None:
    assert sweep_run(run, SweepOptions([24], latency=False)).ks == [10]
    shutil.copytree(run.config.data.path, tmp_path / "few")
    for file in sorted((tmp_path / "few/train").rglob("*.png"))[2:-2]:
        file.unlink()
    few = with_data(run, [str(tmp_path / "few")])
    assert {row.k for row in evaluate_knn(few, ["intact"])} == {4}
    assert sweep_run(few, SweepOptions([24], latency=False)).ks == [4]
    with pytest.raises(UserError, match="k must be between 1 and the 4 training samples"):
        evaluate_knn(few, ["intact"], ks=[10])


def test_rows_of_other_images_and_temperatures_are_kept_apart(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_ = run.folder / "eval"
    first = evaluate_knn(run, ["intact"], ks=[1, 3])
    other = with_data(run, [str(write_pictures(tmp_path / "other", seed=1))])
    second = evaluate_knn(other, ["smallest"], ks=[1], own_data=False)
    assert read_rows(eval_) == second
    third = evaluate_knn(run, ["smallest"], ks=[1])
    assert read_rows(eval_) == [*third, *first]
    evaluate_knn(run, ["smallest"], ks=[1], temperature=1.0)
    assert len(read_rows(eval_)) == 1
    assert len(list((eval_ / "knn").glob("*/knn.json"))) == 3
    shutil.rmtree(eval_ / "knn")
    write_rows(eval_, first)
    assert len(evaluate_knn(run, ["smallest"], ks=[1])) == 1
    assert len(read_rows(eval_)) == 3, "a former version's rows are of the run's images"
    shutil.rmtree(eval_ / "knn")
    write_rows(eval_, first)
    evaluate_knn(other, ["smallest"], ks=[1], own_data=False)
    assert len(read_rows(eval_)) == 1
    assert read_rows(eval_ / "knn/former") == first
    assert "The rows of other images stay in" in capsys.readouterr().out


def test_rows_of_branches_and_steps_are_kept_apart(run: Run) -> None:
    """Rows of one file are of one branch and step; what networks are compared with stays with them."""
    eval_ = run.folder / "eval"
    first = evaluate_knn(run, ["intact"], ks=[1], untrained=True, pixels=True)
    student = evaluate_knn(run, ["smallest"], branch="student", ks=[1])
    found = read_rows(eval_)
    assert [row for row in found if row.kind == "trained"] == student
    assert {row.kind for row in found} == {"trained", "untrained", "pixels"}
    again = evaluate_knn(run, ["smallest"], ks=[1])
    assert {row.branch for row in read_rows(eval_) if row.kind == "trained"} == {"teacher"}
    assert sorted(read_rows(eval_), key=repr) == sorted([*first, *again], key=repr)
    longer = shutil.copytree(run.checkpoint, run.checkpoint.with_name("2"))
    later = replace(run, checkpoint=longer)  # as if it had been trained on
    evaluate_knn(later, ["w24_d3"], ks=[1])
    assert {row.step for row in read_rows(eval_) if row.kind == "trained"} == {2}
    assert {row.data for row in read_rows(eval_)} == {
        "image_folder images, 8 of 8 pixels, temperature 0.07"
    }


def test_a_reference_is_looked_at_before_anything_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_run(trained_run(tmp_path / "other", "student.vit.patch_size=16", crop=48))
    monkeypatch.chdir(run.folder)
    rows = evaluate_knn(run, ["intact"], ks=[1], reference=open_run("."))
    assert [row.network for row in rows] == ["w48_d4", "run"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an evaluation has begun")

    monkeypatch.setattr(evaluate_run, "features_of", refuse)
    with pytest.raises(UserError, match="8"):
        evaluate_knn(run, ["intact"], ks=[1], reference=other)


def test_a_former_file_of_two_branches_is_set_aside(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_ = run.folder / "eval"
    former = [
        replace(row, protocol="", data="")
        for branch, name in (("teacher", "smallest"), ("student", "intact"))
        for row in evaluate_knn(run, [name], branch=branch, ks=[1])
    ]
    shutil.rmtree(eval_ / "knn")
    write_rows(eval_, former)
    evaluate_knn(run, ["w24_d3"], ks=[1])
    assert {row.network for row in read_rows(eval_)} == {"w24_d2", "w24_d3"}
    assert read_rows(eval_ / "knn/former") == former
    assert "The rows of other branches or steps stay in" in capsys.readouterr().out


def test_the_results_of_a_run_that_may_only_be_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results and features go to a folder of one's own, from where `poa pick` and `poa report` read them."""
    with open_folder() as folder:
        run, mine = folder / "run", folder / "mine"
        shutil.copytree(trained, run)
        shutil.copytree(trained.parent / "images", folder / "images")
        mine.mkdir()
        mine.chmod(0o777)
        before = tree(run)
        words = [str(run), "--k", "1", "--data", str(folder / "images")]
        with as_another_user():
            for command in (["eval", "knn"], ["sweep"]):
                said = fails(capsys, *command, *words)
                assert "you may not write there" in said
                assert "named with --to" in said
                assert main([*command, *words, "--to", str(mine / "results")]) == 0
            at = ["--results", str(mine / "results")]
            assert main(["pick", str(run), *at, "--to", str(mine / "picked")]) == 0
            said = fails(capsys, "pick", str(run), "--results", str(folder / "images"))
            assert f"There is no sweep in '{folder / 'images'}'" in said
        to = ["--to", str(mine / "page.html")]
        assert "--results is of one" in fails(capsys, "report", str(run), str(trained), *at, *to)
        assert main(["report", str(run), *at, *to]) == 0
        assert tree(run) == before
        assert read_rows(mine / "results")
        [result] = json.loads((mine / "picked/config.json").read_text())["poa"]["results"]
        assert result["data"] == "image_folder images, 8 of 8 pixels, temperature 0.07"
        assert "w24_d2" in (mine / "page.html").read_text()


def test_a_place_for_results_is_checked_first(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for command in (["eval", "knn"], ["sweep"]):
        said = fails(capsys, *command, str(run.folder), "--to", str(tmp_path / "file"))
        assert "it is a file, and a folder is needed" in said
    assert not (run.folder / "eval").exists()


def _file_in_the_place_of_the_folder(eval_: Path) -> None:
    eval_.write_text("")


def _folder_in_the_place_of_a_file(eval_: Path) -> None:
    for name in ("knn.json", "sweep.json"):
        (eval_ / name).mkdir(parents=True)


def _link_to_nowhere(eval_: Path) -> None:
    eval_.symlink_to("/proc/self/nowhere")


def _damaged(eval_: Path) -> None:
    eval_.mkdir()
    for name in ("knn.json", "sweep.json"):
        (eval_ / name).write_text("{")


@pytest.mark.parametrize(
    "spoil",
    [_file_in_the_place_of_the_folder, _folder_in_the_place_of_a_file, _link_to_nowhere, _damaged],
)
def test_results_that_cannot_be_written_are_a_sentence_before_anything_runs(
    run: Run,
    spoil: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an evaluation has begun")

    monkeypatch.setattr(evaluate_run, "features_of", refuse)
    monkeypatch.setattr(evaluate_sweep, "bytes_per_image", refuse)
    spoil(run.folder / "eval")
    for command in (["eval", "knn"], ["sweep"]):
        assert main([*command, str(run.folder), "--k", "1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("poa: ")
        assert said.count("\n") == 1
        assert str(run.folder / "eval") in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_of_somebody_else(run: Run, tmp_path: Path) -> None:
    run.folder.chmod(0o555)
    try:
        with pytest.raises(UserError, match=r"you may not write there.*Nothing was evaluated"):
            evaluate_knn(run, ks=[1])
    finally:
        run.folder.chmod(0o755)


def test_links_to_a_run_are_a_run(run: Run, tmp_path: Path) -> None:
    """What the sentence about a run of somebody else's advises."""
    (tmp_path / "mine").mkdir()
    for name in ("config.yaml", "ckpt"):
        (tmp_path / "mine" / name).symlink_to(run.folder / name)
    assert evaluate_knn(open_run(tmp_path / "mine"), ["intact"], ks=[1])
    assert not (run.folder / "eval").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--threads", "0"],
        ["--threads", "-3"],
        ["--threads", "1000000000000000000000000000000"],
        ["--memory", "0"],
        ["--memory", "nan"],
        ["--memory", "inf"],
        ["--memory", "-1"],
        ["--memory", "1e30"],
        ["--memory", "x"],
        ["--temperature", "nan"],
        ["--temperature", "inf"],
        ["--temperature", "0"],
        ["--temperature", "-1"],
        ["--temperature", "1e30"],
        ["--k", "0"],
        ["--k", "1000000000000000000000000000000"],
        ["--k", "-1", "3"],
    ],
)
def test_numbers_that_make_no_sense_are_sentences(
    run: Run, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    for command in (["eval", "knn"], ["sweep"]):
        assert main([*command, str(run.folder), *argv]) == 2
        said = capsys.readouterr().err
        assert said.startswith("poa: ")
        assert said.count("\n") == 1
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("word", ["a=b", "with = sign/x"])
def test_a_path_with_an_equals_sign(run: Run, tmp_path: Path, word: str) -> None:
    write_pictures(tmp_path / word)
    assert with_data(run, [str(tmp_path / word)]).config.data.path == str(tmp_path / word)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert with_data(run, [word]).config.data.path == word
    finally:
        os.chdir(before)


def test_a_thread_that_is_not_the_main_one_may_evaluate(run: Run) -> None:
    rows: list[object] = []
    thread = threading.Thread(target=lambda: rows.extend(evaluate_knn(run, ["intact"], ks=[1])))
    thread.start()
    thread.join()
    assert len(rows) == 1
    assert replace(rows[0], top1=0.0).n_test == 2 * N_TEST
    assert N_TRAIN > 1
