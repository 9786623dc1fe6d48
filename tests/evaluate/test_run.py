"""A run evaluated: what is written when, and what is checked before it starts."""

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
from poa_plugin.evaluate import evaluator, knn
from poa_plugin.evaluate.run import EvaluationOptions
from poa_plugin.evaluate.splits import EvaluationImages, with_data
from poa_plugin.runs.entries import entries_of
from poa_plugin.runs.results import Row
from poa_plugin.runs.results_file import read_results
from poa_plugin.runs.run import Run, open_run
from poa_plugin.runs.uncertainty import standard_error
from tests.command_checks import as_another_user, fails, open_folder, tree
from tests.evaluate.small_runs import N_TEST, evaluated, swept, trained_run, write_pictures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("knn"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(trained, tmp_path / "run"))


def test_images_are_decoded_once_for_all_that_is_evaluated(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bool] = []
    crops = EvaluationImages._crops

    def counted(self: EvaluationImages, start: int) -> object:
        decoded.append(not self._kept)
        return crops(self, start)

    monkeypatch.setattr(EvaluationImages, "_crops", counted)
    evaluated(run, ["w24_d2", "w32_d2"], untrained=True, reference=run)
    assert (sum(decoded), len(decoded)) == (2, 2 * 5), "two widths, twice, and the intact network"


def test_rows_are_written_as_they_are_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenOffError(Exception):
        pass

    real, calls = knn.knn_accuracy, []

    def breaks(*arguments: object, **rest: object) -> dict:
        calls.append(1)
        if len(calls) == 4:
            raise BrokenOffError
        return real(*arguments, **rest)

    monkeypatch.setattr(knn, "knn_accuracy", breaks)
    with pytest.raises(BrokenOffError):
        evaluated(run, ks=[1, 3])
    rows = read_results(run.folder / "eval").rows
    assert {row.network for row in rows} == {"w24_d2", "w24_d3", "w24_d4"}
    assert {row.n for row in rows} == {2 * N_TEST}
    calls[:] = [1] * 4
    assert len(evaluated(run, ks=[1, 3])) == 2 * 12
    assert len(calls) == 4 + 9, "what was finished is not evaluated again"


def test_the_test_images_are_counted_in_every_row(run: Run) -> None:
    rows = evaluated(run, ["intact"], ks=None, untrained=True, pixels=True, reference=run)
    assert {row.kind for row in rows} == {"trained", "untrained", "reference", "pixels"}
    assert {row.n for row in rows} == {2 * N_TEST}
    assert {row.k for row in rows} == {10}, "of 10, 20, 100 and 200 that fits 12 training images"
    assert all(row.standard_error == standard_error(row.value, row.n) for row in rows)


def test_ks_that_fit_are_the_default(run: Run, tmp_path: Path) -> None:
    assert swept(run, EvaluationOptions(widths=[24], is_sweep=True)).ks == [10]
    shutil.copytree(run.config.data.path, tmp_path / "few")
    for file in sorted((tmp_path / "few/train").rglob("*.png"))[2:-2]:
        file.unlink()
    few = with_data(run, [str(tmp_path / "few")])
    assert {row.k for row in evaluated(few, ["intact"], ks=None)} == {4}
    assert swept(few, EvaluationOptions(widths=[24], is_sweep=True)).ks == [4]
    with pytest.raises(UserError, match="k must be between 1 and the 4 training samples"):
        evaluated(few, ["intact"], ks=[10])


def test_rows_of_other_images_and_temperatures_stand_beside_each_other(
    run: Run, tmp_path: Path
) -> None:
    eval_ = run.folder / "eval"
    first = evaluated(run, ["intact"], ks=[1, 3])
    other = with_data(run, [str(write_pictures(tmp_path / "other", seed=1))])
    second = evaluated(other, ["smallest"], own_data=False)
    third = evaluated(run, ["smallest"])
    fourth = evaluated(run, ["smallest"], settings={"temperature": 1.0})
    assert read_results(eval_).rows == [*first, *second, *third, *fourth]
    assert len({row.series for row in read_results(eval_).rows}) == 3
    labels = [entry.label for entry in entries_of(read_results(eval_))]
    assert labels == [
        "w24_d2",
        "w48_d4 (image_folder images, 8 of 8 pixels, temperature 0.07)",
        "w24_d2 (image_folder other, 8 of 8 pixels, temperature 0.07)",
        "w24_d2 (image_folder images, 8 of 8 pixels, temperature 0.07)",
    ]


@pytest.mark.parametrize("own_data", [True, False])
def test_rows_of_a_version_that_recorded_no_images_are_adopted(run: Run, own_data: bool) -> None:
    """They are of the run's images; what is evaluated on others is not compared with them."""
    sizes = {"width": 48, "depth": 4, "params": 1, "flops": 1}
    former = {"network": "w48_d4", "kind": "trained", "k": 1, "top1": 10.0, **sizes}
    state = [{"branch": "teacher", "step": 1}, {"branch": "student", "step": 1}]
    (run.folder / "eval").mkdir()
    (run.folder / "eval/knn.json").write_text(json.dumps([former | each for each in state]))
    evaluated(run, ["smallest"], own_data=own_data)
    kinds = {(e.label, e.kind) for e in entries_of(read_results(run.folder / "eval"))}
    assert kinds == {
        ("w24_d2", "trained"),
        ("w48_d4", "trained") if own_data else ("w48_d4 (other images)", "other"),
        ("w48_d4 (student, step 1)", "other")
        if own_data
        else ("w48_d4 (other images; student, step 1)", "other"),
    }


def test_rows_of_branches_and_steps_stand_beside_each_other(run: Run) -> None:
    """A student's rows never replace the teacher's; those of the newest step are compared."""
    eval_ = run.folder / "eval"
    first = evaluated(run, ["intact"], untrained=True, pixels=True)
    student = evaluated(run, ["intact"], branch="student")
    assert read_results(eval_).rows == [*first, *student]
    entries = entries_of(read_results(eval_))
    assert [(entry.label, entry.kind) for entry in entries] == [
        ("w48_d4", "trained"),
        ("pixels: raw", "pixels"),
        ("w48_d4 (student, step 1)", "other"),
    ]
    assert entries[0].before
    longer = shutil.copytree(run.checkpoint, run.checkpoint.with_name("2"))
    later = replace(run, checkpoint=longer)  # as if it had been trained on
    evaluated(later, ["w24_d3"])
    entries = entries_of(read_results(eval_))
    assert [entry.label for entry in entries if entry.kind == "trained"] == ["w24_d3"]
    assert {row.data for row in read_results(eval_).rows} == {
        "image_folder images, 8 of 8 pixels, temperature 0.07"
    }


def test_a_reference_is_looked_at_before_anything_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_run(trained_run(tmp_path / "other", "student.vit.patch_size=16", crop=48))
    monkeypatch.chdir(run.folder)
    rows = evaluated(run, ["intact"], reference=open_run("."))
    assert [row.network for row in rows] == ["w48_d4", "run"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an evaluation has begun")

    monkeypatch.setattr(evaluator, "bytes_per_image", refuse)
    with pytest.raises(UserError, match="8"):
        evaluated(run, ["intact"], reference=other)


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
            assert f"There are no results of networks in '{folder / 'images'}'" in said
        to = ["--to", str(mine / "page.html")]
        assert "--results is of one" in fails(capsys, "report", str(run), str(trained), *at, *to)
        assert main(["report", str(run), *at, *to]) == 0
        assert tree(run) == before
        assert read_results(mine / "results").rows
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
    for name in ("results.json", "knn.json"):
        (eval_ / name).mkdir(parents=True)


def _link_to_nowhere(eval_: Path) -> None:
    eval_.symlink_to("/proc/self/nowhere")


def _damaged(eval_: Path) -> None:
    eval_.mkdir()
    for name in ("results.json", "knn.json"):
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

    monkeypatch.setattr(evaluator, "bytes_per_image", refuse)
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
        with pytest.raises(UserError, match="cannot be written: you may not write there"):
            evaluated(run)
    finally:
        run.folder.chmod(0o755)


def test_links_to_a_run_are_a_run(run: Run, tmp_path: Path) -> None:
    """What the sentence about a run of somebody else's advises."""
    (tmp_path / "mine").mkdir()
    for name in ("config.yaml", "ckpt"):
        (tmp_path / "mine" / name).symlink_to(run.folder / name)
    assert evaluated(open_run(tmp_path / "mine"), ["intact"])
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
    rows: list[Row] = []
    thread = threading.Thread(target=lambda: rows.extend(evaluated(run, ["intact"])))
    thread.start()
    thread.join()
    assert len(rows) == 1
    assert rows[0].n == 2 * N_TEST
