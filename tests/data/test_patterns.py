"""Which archives a path stands for, and which of them are for training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.data import WebDataset
from poa_plugin.data.datasets import NoSplitError, Split
from poa_plugin.data.patterns import expand_braces, split_files
from poa_plugin.errors import UserError
from tests.data.image_files import good, write_tar


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", "a"),
        ("{0..3}", "0 1 2 3"),
        ("{008..011}", "008 009 010 011"),
        ("{8..010}", "008 009 010"),
        ("{0..6..2}", "0 2 4 6"),
        ("{3..1}", "3 2 1"),
        ("x{a..c}y", "xay xby xcy"),
        ("{train,val}-{0,1}", "train-0 train-1 val-0 val-1"),
        ("{a,{b,c{1..2}}}-x", "a-x b-x c1-x c2-x"),
        ("{a,}.tar", "a.tar .tar"),
        ("{one}{}{", "{one}{}{"),
        ("{x{1..2}}", "{x1} {x2}"),
        ("}{{1,2}", "}{1 }{2"),
    ],
)
def test_braces_are_those_of_bash(pattern: str, expected: str) -> None:
    assert expand_braces(pattern) == expected.split(" ")


def test_a_path_through_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "0.tar")
    with pytest.raises(UserError, match="cannot be read: a part of its path is a file"):
        names(tmp_path / "0.tar/x.tar")


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}", "{0..1999}" * 2])
def test_a_pattern_of_too_many_names(pattern: str) -> None:
    with pytest.raises(UserError, match="more than 1000000 names"):
        expand_braces(pattern)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(path: object, split: Split = "train") -> list[str]:
    return [file.name for file in split_files(str(path), split, ".tar").files]


def test_missing_shards_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train-{i:03}.tar" for i in range(147) if i not in (3, 50, 51, 146)))
    message = r"4 of the 147 \.tar files .*missing: train-003\.tar, train-050\.tar, train-051\.tar and 1 more"
    with pytest.raises(UserError, match=message):
        names(tmp_path / "train-{000..146}.tar")
    assert len(names(tmp_path / "train-{000..002}.tar")) == 3
    assert len(names(tmp_path / "train-{000..002}{,}.tar")) == 3  # each once
    with pytest.raises(UserError, match=r"1 of the 2 .*missing: b-\*\.tar"):
        names(tmp_path / "{train,b}-*.tar")
    for nothing in ("b-*.tar", "train-003.tar", "none/train-*.tar"):
        with pytest.raises(UserError, match=r"There is no \.tar file at"):
            names(tmp_path / nothing)


def test_names_decide_in_patterns_and_in_folders(tmp_path: Path) -> None:
    training = ["imagenet1k-train-00.tar", "retrieval-00.tar", "testament.tar", "train_test_0.tar"]
    held_out = ["VAL2.tar", "a.validation.0.tar", "imagenet1k-validation-00.tar", "val_0001.tar"]
    held_out += ["x-Test-0.tar"]
    touch(tmp_path, *training, *held_out, "._train.tar", "notes.txt", "old.tar.gz")
    for path in (tmp_path, tmp_path / "*.tar"):
        assert names(path) == sorted(training)
        assert names(path, "test") == sorted(held_out)
        [note] = split_files(str(path), "train", ".tar").notes
        assert "5 of the 9 .tar files" in note and "VAL2.tar, a.validation.0.tar" in note
    assert str(split_files(str(tmp_path), "train", ".tar").left_out).endswith("left out: .gz (1)")
    assert names(tmp_path / "{retrieval-00,val_0001}.tar") == ["retrieval-00.tar"]
    for only_held_out in ("val_*.tar", "val_0001.tar", "*[Vv][Aa][Ll]*.tar"):
        path = tmp_path / only_held_out
        assert "val_0001.tar" in names(path, "test")
        if only_held_out != "*[Vv][Aa][Ll]*.tar":
            with pytest.raises(NoSplitError, match=r"By their names all 1 .* are for testing"):
                names(path)


def test_folders_in_a_pattern_decide_too(tmp_path: Path) -> None:
    touch(tmp_path, "val/train/0.tar", "val/val/0.tar", "val/val/1.tar")
    for pattern in ("val/{train,val}/*.tar", "val/*/*.tar"):
        assert [
            f.parent.name for f in split_files(f"{tmp_path}/{pattern}", "train", ".tar").files
        ] == ["train"]
    assert names(tmp_path / "val/val/*.tar") == ["0.tar", "1.tar"]  # the folder was asked for


def test_what_is_there_literally_is_no_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a [1] {x,y}/0.tar", "a [1] {x,y}/{0..1}.tar")
    assert names(tmp_path / "a [1] {x,y}") == ["0.tar", "{0..1}.tar"]
    assert names(tmp_path / "a [1] {x,y}/0.tar") == ["0.tar"]
    assert names(tmp_path / "a [1] {x,y}/{0..1}.tar") == ["{0..1}.tar"]
    (tmp_path / "b [1]").mkdir()
    touch(tmp_path, "b [1]/train-0.tar")
    monkeypatch.chdir(tmp_path)
    assert names("b [1]/*.tar") == names("./b [1]/train-{0..0}.tar") == ["train-0.tar"]


def test_shards_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for i, folder in enumerate("ab"):
        write_tar(tmp_path / folder / "0.tar", {"x.jpg": good(i)})
    dataset = WebDataset(str(tmp_path / "{a,b}/0.tar"), "train")
    assert list(dataset.all_names()) == ["a/0.tar/x.jpg", "b/0.tar/x.jpg"]
    assert dataset.read(1) == good(1)


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "0.tar")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for path in (tmp_path, tmp_path / "*.tar"):
        with pytest.raises(UserError, match=r"cannot be read: .*you may not read it"):
            names(path)


def test_a_check_of_shards_for_testing_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "val-0.tar", {"a.jpg": good(0)})
    assert main(["data", "check", str(tmp_path / "val-*.tar"), "--dataset", "webdataset"]) == 0
    assert "test: 1 images" in capsys.readouterr().out
