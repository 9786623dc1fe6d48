"""Folders and lists: what is left out and said, what cannot be read, and names of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poa_plugin.cli import main
from poa_plugin.config.schema import Config
from poa_plugin.data import FileList, ImageFolder, ImageNet, build_dataset, train_shards
from poa_plugin.data.datasets import NoSplitError, UnreadableImageError
from poa_plugin.data.faults import BadImages
from poa_plugin.errors import UserError
from tests.conftest import Noise
from tests.data.image_files import good, write_folder

OTHERS = {
    **{f"x/{i}.heic": b"?" for i in range(10)},
    "x/scan": b"?",
    "y/a.JP2": b"?",
    "y/b.tar": b"?",
}
NO_IMAGES = dict.fromkeys(
    ("x/notes.txt", "x/Thumbs.db", "y/.hidden.gif", "x/.DS_Store", "x/a.jpg.json", "README"), b""
)
IMAGES = {"x/a.jpg": good(0), "x/b.PNG": good(1), "y/c.jpeg": good(2)}


@pytest.mark.parametrize(
    ("kind", "root"), [("image_folder", "."), ("image_folder", "train"), ("imagenet", "train")]
)
def test_files_of_other_endings_are_counted_and_said_once(
    tmp_path: Path,
    small_config: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    root: str,
) -> None:
    write_folder(tmp_path / root, {**IMAGES, **OTHERS, **NO_IMAGES})
    config = small_config(f"data.dataset={kind}", f"data.path={tmp_path}")
    for _ in range(2):
        assert len(build_dataset(config, "train")) == 3
    message = capsys.readouterr().err
    assert "13 files are left out: .heic (10), .jp2 (1), .tar (1), no ending (1)." in message
    assert message.count("left out") == 1
    assert main(["data", "check", str(tmp_path), "--dataset", kind]) == 0
    message = capsys.readouterr().out
    assert ".heic: 10 left out\n    x/" in message
    assert "    and 5 more" in message
    assert "no ending: 1 left out\n    x/scan" in message


def test_nothing_left_out_is_not_said(
    tmp_path: Path, small_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, {**IMAGES, **NO_IMAGES})
    build_dataset(small_config(f"data.path={tmp_path}"), "train")
    assert capsys.readouterr().err == ""


def test_a_folder_of_other_images_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.avif": b"", "b.avif": b"", "c.gif": b""})
    with pytest.raises(UserError, match=r"3 files are left out: \.avif \(2\), \.gif \(1\)"):
        ImageFolder(str(tmp_path), "train")


def test_images_in_the_wrong_place_are_counted(tmp_path: Path) -> None:
    files = {
        "train/n1/a.jpg": b"",
        "train/b.jpg": b"",
        "train/n1/deep/c.jpg": b"",
        "val/n1/d.jpg": b"",
    }
    write_folder(tmp_path, files)
    left_out = ImageNet(str(tmp_path), "train").left_out
    assert left_out.examples == {
        "an image in no class's folder": ["b.jpg"],
        "a folder in a class's folder": ["n1/deep"],
    }
    (tmp_path / "train/n1/gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train/n1/round.jpg").symlink_to(tmp_path / "train/n1/round.jpg")
    left_out = ImageFolder(str(tmp_path / "train"), "train").left_out
    assert left_out.counts == {"a link to nothing": 2}


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "validation"), ("TRAIN", "Test")])
def test_names_of_folders_decide(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (*names, "extra", ".cache"):
        write_folder(tmp_path / name, {"x/a.jpg": good(0)})
    write_folder(tmp_path, {"b.jpg": good(0)})
    train = ImageFolder(str(tmp_path), "train")
    assert (train.root.name, len(train), train.classes) == (names[0], 1, ["x"])
    assert ImageFolder(str(tmp_path), "test").root.name == names[1]
    [note] = train.notes
    assert "the folder 'extra', 1 images: they are left out" in note


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{name}/a.jpg": good(0) for name in ("train", "Train", "val")})
    with pytest.raises(UserError, match="Train and train could both be the split 'train'"):
        ImageFolder(str(tmp_path), "train")


def test_a_hidden_folder_beside_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/x/a.jpg": good(0), ".ipynb_checkpoints/b.jpg": good(0)})
    assert ImageFolder(str(tmp_path), "train").classes == ["x"]


def test_the_order_is_that_of_paths(tmp_path: Path) -> None:
    names = [
        "b/c.jpg",
        "a-1/x.jpg",
        "a/y.jpg",
        "a.jpg",
        "B.jpg",
        "a/b/z.jpg",
        "a/b.jpg",
        "ä.jpg",
        "c.d/q.jpg",
    ]
    write_folder(tmp_path, dict.fromkeys(names, b""))
    expected = [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*.jpg"))]
    dataset = ImageFolder(str(tmp_path), "train")
    assert list(dataset.all_names()) == expected
    assert [dataset.name(i) for i in range(9)] == expected


def test_names_of_any_bytes(
    tmp_path: Path, small_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line feed, a separator of lines, and bytes that are not UTF-8; printed escaped."""
    odd = [b"line\nfeed.jpg", "u\u2028v.jpg".encode(), b"caf\xe9.jpg", b"bad \xff.jpg"]
    for i, name in enumerate(odd):
        (tmp_path / os.fsdecode(name)).write_bytes(good(i) if b"bad" not in name else b"?")
    dataset = ImageFolder(str(tmp_path), "train")
    assert sorted(os.fsencode(dataset.name(i)) for i in range(4)) == sorted(odd)
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "bad \\udcff.jpg" in capsys.readouterr().out
    config = small_config(f"data.path={tmp_path}", "data.max_bad_ratio=1")
    (tmp_path / "run").mkdir()
    list(
        train_shards(config, dataset, (6, 6), 0, 4, BadImages(tmp_path / "run", len(dataset), 1.0))
    )
    assert "bad \\udcff.jpg' is skipped" in capsys.readouterr().out
    (tmp_path / "list.txt").write_bytes(b"\n".join(odd[1:3]) + b"\r\n")
    listed = FileList(str(tmp_path / "list.txt"), "train")
    assert [len(listed.image(i)) for i in range(2)] == [3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg\n".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        (good(0), "it is not text: a list has a path on each line"),
    ],
)
def test_lists_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        FileList(str(tmp_path / "list.txt"), "train")


def test_a_list_takes_any_ending(tmp_path: Path) -> None:
    for name, kind in (("a", "PNG"), ("b.jp2", "JPEG2000"), ("c.gif", "GIF")):
        from tests.data.image_files import encoded, noise

        (tmp_path / name).write_bytes(encoded(noise(0), kind))
    (tmp_path / "list.txt").write_text("a\nb.jp2\nc.gif\t\n")
    dataset = FileList(str(tmp_path / "list.txt"), "train")
    assert dataset.labels is None  # nothing after a tab is no class
    assert [tuple(dataset.image(i).shape) for i in range(3)] == [(3, 30, 40)] * 3


@pytest.mark.parametrize("name", ["image_folder", "imagenet", "file_list", "webdataset", "parquet"])
def test_paths_that_lead_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The command says how far they lead; nothing is a traceback."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path, message in (
        ("none/deeper", f"'{tmp_path}' exists, 'none' in it does not"),
        ("file/x", "cannot be read: a part of its path is a file"),
        ("link", ""),
        ("round", "cannot be read: its links lead in a circle"),
        ("n" * 300, "cannot be read: its name is too long"),
        ("a\0b", "no file can be named"),
    ):
        assert main(["data", "check", str(tmp_path / path), "--dataset", name]) == 2
        actual = capsys.readouterr().err
        assert message in actual, (path, actual)
    assert main(["data", "check", str(tmp_path / "file"), "--dataset", name]) == 2
    message = capsys.readouterr().err
    assert (
        "is a file, not a folder" in message
        or "no images in" in message
        or "cannot be read" in message
    )


def test_a_file_for_a_folder_names_what_takes_it(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with pytest.raises(UserError, match=r"is a file, .*there is data\.dataset=webdataset"):
        ImageFolder(str(tmp_path / "a.tar"), "train")


REFUSALS = [
    (PermissionError(13, "Permission denied", "x"), "you may not read it"),
    (OSError(116, "Stale file handle", "x"), "the file server has lost it"),
    (OSError(5, "Input/output error", "x"), "the disk reports an input/output error"),
]


@pytest.mark.parametrize(("error", "message"), REFUSALS)
@pytest.mark.parametrize("name", ["image_folder", "imagenet"])
def test_folders_that_cannot_be_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_config: Callable[..., Config],
    error: OSError,
    message: str,
    name: str,
) -> None:
    """It is told as reading, in training too, where the disk is watched for writing."""
    from poa_plugin.train.loop import train

    write_folder(tmp_path / "train", {"x/a.jpg": good(0)})
    honest = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "x":
            raise error
        return honest(path)

    monkeypatch.setattr(os, "scandir", refuse)
    overrides = (f"data.dataset={name}", f"data.path={tmp_path}", f"output_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=f"cannot be read: 'x': {message}") as actual:
        train(small_config(*overrides))
    assert "written" not in str(actual.value)


def test_an_image_that_may_not_be_read_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training stops with a sentence; `data check` lists it and goes on."""
    write_folder(tmp_path, {f"{i}.jpg": good(i) for i in range(3)})
    honest = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == "1.jpg":
            raise PermissionError(13, "Permission denied", str(self))
        return honest(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    dataset = ImageFolder(str(tmp_path), "train")
    with pytest.raises(
        UnreadableImageError, match=r"'1\.jpg' could not be read: you may not read it"
    ):
        dataset.image(1)
    assert main(["data", "check", str(tmp_path)]) == 1
    message = capsys.readouterr().out
    assert "unreadable: 1 cannot be used\n    1.jpg: you may not read it" in message
    assert "training stops at one that cannot be read" in message


def test_a_disk_that_is_gone_ends_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, {f"{i}.jpg": b"" for i in range(30)})

    def refuse(self: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("poa_plugin.data.datasets.PAUSES", (0.0,))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "20 images in a row could not be read" in capsys.readouterr().err


class Elsewhere(Noise):
    """A data set of a user's, whose disk refuses."""

    def image(self, index: int) -> Any:
        raise PermissionError(13, "Permission denied", "/somewhere")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_in_a_data_set_of_ones_own(
    small_config: Callable[..., Config], workers: int
) -> None:
    config = small_config(f"data.num_workers={workers}")
    with pytest.raises(UserError, match=r"The image '.*' could not be read: you may not read it"):
        next(train_shards(config, Elsewhere(5), (6, 6), 0, 1))


def test_a_list_for_testing_under_another_name(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train.txt": b"a.jpg", "validation.txt": b"b.jpg"})
    assert FileList(str(tmp_path), "test").name(0) == "b.jpg"
    (tmp_path / "validation.txt").unlink()
    with pytest.raises(NoSplitError):
        FileList(str(tmp_path), "test")
