"""Tar shards: their headers, what is lost of damaged ones, and the index that is kept of them."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poa_plugin.cli import main
from poa_plugin.config.schema import Config
from poa_plugin.data import WebDataset, build_dataset, tar_index, train_shards
from poa_plugin.data.faults import BadImages
from poa_plugin.data.tar_headers import tar_entries
from poa_plugin.errors import UserError
from tests.data.image_files import good, write_tar

FILES = {f"{i}.jpg": good(i) for i in range(4)}


def opened(file: Path, split: Any = "train") -> WebDataset:
    return WebDataset(str(file), split)


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_what_tarfile_reads(tmp_path: Path, layout: int) -> None:
    """Long names, names that are not ASCII, folders, links, empty files, more than a block of content."""
    names = ["a.jpg", "ä/日本.jpg", f"{'f' * 90}/{'g' * 60}.jpg", "empty.jpg"]
    if layout != tarfile.USTAR_FORMAT:
        names += ["x/" * 150 + "deep.jpg", "q" * 300 + ".jpg", os.fsdecode(b"caf\xe9.jpg")]
    with tarfile.open(tmp_path / "a.tar", "w", format=layout, errors="surrogateescape") as archive:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 * i * (name != "empty.jpg"), 1.5
            archive.addfile(info, io.BytesIO(bytes([65 + i]) * info.size))
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
    content = (tmp_path / "a.tar").read_bytes()
    with (tmp_path / "a.tar").open("rb") as file:
        actual = list(tar_entries(file.fileno(), len(content)))
    with tarfile.open(tmp_path / "a.tar", errors="surrogateescape") as archive:
        members = [m for m in archive if m.isfile()]
    expected = [(m.name, m.offset_data, m.size) for m in members]
    regular = [(os.fsdecode(e.name), e.offset, e.size) for e in actual if e.offset >= 0]
    assert regular == expected
    assert [os.fsdecode(e.name) for e in actual if e.offset < 0] == ["link.jpg"]


def test_a_shard_that_is_cut_off_is_used_up_to_the_cut(
    tmp_path: Path, small_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    intact = write_tar(tmp_path / "train-0.tar", FILES).read_bytes()
    places = opened(tmp_path / "train-0.tar").places
    (tmp_path / "train-0.tar").write_bytes(intact[: places[2][1] + 100])
    config = small_config(
        "data.dataset=webdataset", f"data.path={tmp_path}", "data.max_bad_ratio=0.5"
    )
    dataset = build_dataset(config, "train")
    message = capsys.readouterr().err
    assert (
        "WARNING: The shard 'train-0.tar' is damaged: it ends in the middle of '2.jpg'" in message
    )
    assert len(dataset) == 3
    (tmp_path / "run").mkdir()
    batches = train_shards(
        config, dataset, (6, 6), 0, 3, BadImages(tmp_path / "run", len(dataset), 1.0)
    )
    assert {i for batch in batches for i in batch["image_ids"]} == {0, 1}
    assert "'train-0.tar/2.jpg'" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--dataset", "webdataset"]) == 1
    message = capsys.readouterr().out
    assert "train-0.tar/2.jpg: the shard ends within it" in message
    assert "the shard 'train-0.tar' is damaged" in message


@pytest.mark.parametrize(
    ("damage", "images", "message"),
    [
        (lambda tar, at: tar[: at[2] - 300], 2, "it ends within a header"),
        (lambda tar, at: tar[: at[2] - 512], 2, "without the mark of a tar's end"),
        (lambda tar, at: tar[: at[2] - 400] + b"\xff" + tar[at[2] - 399 :], 2, "header at byte .* damaged"),
        (lambda tar, at: tar + tar, 4, "another archive follows its end"),
        (lambda tar, at: tar[:-10240] if len(tar) > 10240 else tar[: at[3] + 1024], 4, "without the mark"),
    ],
)  # fmt: skip
def test_where_a_shard_is_damaged_is_said(
    tmp_path: Path, damage: Callable[[bytes, list[int]], bytes], images: int, message: str
) -> None:
    """By `data check` too, where every image that is left can be used."""
    files = {f"{i}.jpg": good(0)[:1000] for i in range(4)}
    intact = write_tar(tmp_path / "0.tar", files).read_bytes()
    (tmp_path / "0.tar").write_bytes(
        damage(intact, opened(tmp_path / "0.tar").places[:, 1].tolist())
    )
    dataset = opened(tmp_path / "0.tar")
    assert len(dataset) == images
    [actual] = dataset.damaged
    assert re.search(message, actual)


def test_a_class_that_is_cut_off(tmp_path: Path) -> None:
    """Its image is left out, named; the others keep their classes."""
    files = {
        f"{i}.{kind}": good(i) if kind == "jpg" else b"1"
        for i in range(3)
        for kind in ("jpg", "cls")
    }
    intact = write_tar(tmp_path / "0.tar", files).read_bytes()
    last = opened(tmp_path / "0.tar").places[2]
    (tmp_path / "0.tar").write_bytes(intact[: last[1] + last[2] + 512])
    dataset = opened(tmp_path / "0.tar")
    assert dataset.labels == [1, 1]
    assert dataset.left_out.examples == {"an image whose class is cut off": ["0.tar/2.jpg"]}


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "good.tar", FILES).read_bytes()
    for content, message in (
        (gzip.compress(tar), r"0\.tar' cannot be read: it is compressed \(gzip\).*unpack it"),
        (b"\x28\xb5\x2f\xfd" + tar, r"compressed \(zstd\)"),
        (b"x" * 5000, "it is not a tar file"),
        (b"x", "it is not a tar file"),
        (b"", r"no images in the 1 shards .*it is empty \(0 bytes\)"),
        (bytes(10240), "no images in the 1 shards"),
    ):
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(UserError, match=message):
            opened(tmp_path / "0.tar")
    with pytest.raises(UserError, match=r"There is no \.tar file.*\.tgz \(1\)"):
        (tmp_path / "z").mkdir()
        (tmp_path / "z/0.tgz").write_bytes(gzip.compress(tar))
        opened(tmp_path / "z")
    (tmp_path / "0.tar").write_bytes(b"")
    dataset = opened(tmp_path)  # one empty shard among others
    assert (len(dataset), len(dataset.damaged)) == (4, 1)


@pytest.mark.parametrize("content", [b"cat", b"-1", b"1.5", b"", b"99999999999"])
def test_classes_that_are_no_numbers(tmp_path: Path, content: bytes) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": good(0), "a.cls": content, "a.json": b'{"label": 1}'})
    with pytest.raises(UserError, match=r"its file 'a\.cls' holds .*not the number of a class"):
        opened(tmp_path / "0.tar")


def test_what_is_left_out_of_shards_is_counted(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        {"a.jpg": b"", "a.JPG": b"", "a.txt": b"", "a.mask.png": b"", "b.avif": b"", "c.cls": b"1"},
    )
    left_out = opened(tmp_path / "0.tar").left_out
    assert left_out.counts == {"a second image of a key": 1, ".mask.png": 1, ".avif": 1}
    assert left_out.examples[".avif"] == ["0.tar/b.avif"]


def test_permission_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "0.tar", FILES)

    def refuse(self: Path, *arguments: Any, **keywords: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"0\.tar' cannot be read: you may not read it"):
        opened(tmp_path / "0.tar")


def old(file: Path) -> Path:
    """Make a file look as if it had been written long ago: of a fresh one no index is kept."""
    os.utime(file, (1000, 1000))
    return file


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose headers were read."""
    read: list[Path] = []
    honest = tar_index._index

    def counted(shard: Path, *arguments: Any) -> Any:
        read.append(shard)
        return honest(shard, *arguments)

    monkeypatch.setattr(tar_index, "_index", counted)
    return read


def test_headers_are_read_once(tmp_path: Path, count: list[Path]) -> None:
    shard = old(write_tar(tmp_path / "0.tar", {**FILES, "b.avif": b"", "0.cls": b"0"}))
    (tmp_path / "0.tar").write_bytes(shard.read_bytes()[:4000])
    old(shard)
    first, second = opened(tmp_path), opened(tmp_path)
    assert count == [shard]
    assert [p.name for p in (tmp_path / ".poa_index").iterdir()] == ["0.tar.index"]
    assert list(first.all_names()) == list(second.all_names())
    assert (first.places == second.places).all()
    assert (first.labels, first.damaged) == (second.labels, second.damaged)
    assert first.left_out.state() == second.left_out.state()


def test_an_index_of_another_state_is_not_used(tmp_path: Path, count: list[Path]) -> None:
    shard = old(write_tar(tmp_path / "0.tar", {"a.jpg": good(0)}))
    assert len(opened(shard)) == 1
    write_tar(shard, {"a.jpg": good(0), "b.jpg": good(1)})  # the same size: 10240 bytes
    assert len(opened(shard)) == len(opened(shard)) == 2
    assert len(count) == 3  # fresh, so not kept
    old(shard)
    os.utime(shard, (1000, 1001))
    assert len(opened(shard)) == len(opened(shard)) == 2
    assert len(count) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index[:-1],
        lambda index: index + b"x",
        lambda index: index[:50],
        lambda index: b"",
        lambda index: index[:-3] + b"Q" + index[-2:],
        lambda index: b"\x80\x04pickle",
    ],
)
def test_a_damaged_index_is_made_anew(
    tmp_path: Path, count: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    shard = old(write_tar(tmp_path / "0.tar", FILES))
    opened(shard)
    index = tmp_path / ".poa_index/0.tar.index"
    intact = index.read_bytes()
    index.write_bytes(damage(intact))
    assert len(opened(shard)) == 4
    assert len(count) == 2
    assert index.read_bytes() == intact


def test_where_an_index_is_kept(
    tmp_path: Path, count: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the shards, else in the user's cache, else nowhere."""
    shard = old(write_tar(tmp_path / "data/0.tar", FILES))
    (tmp_path / "data/.poa_index").touch()  # no folder can be made there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(opened(shard)) == len(opened(shard)) == 4
    assert len(count) == 1
    assert len(list((tmp_path / "cache/poa_plugin/shards").iterdir())) == 1
    for nowhere in ("/proc/nowhere", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        monkeypatch.setenv("HOME", "/proc/nowhere")
        count.clear()
        assert len(opened(shard)) == len(opened(shard)) == 4
        assert len(count) == 2
