"""The same images from folders, lists, tar shards and parquet files; and what is wrong with each."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from poa_plugin.config.schema import Config
from poa_plugin.data import (
    BadImageError,
    FileList,
    ImageFolder,
    ImageNet,
    Parquet,
    ShardBatch,
    WebDataset,
    build_dataset,
    train_shards,
)
from poa_plugin.data import parquet as parquet_files
from poa_plugin.data.datasets import UnreadableImageError
from poa_plugin.errors import UserError
from tests.data.image_files import BAD, good, write_folder, write_tar

CLASSES = ("ant", "bee")
FILES = {f"{CLASSES[i // 5]}/{i:02}.jpg": good(i) for i in range(10)}
LABELS = [i // 5 for i in range(10)]


def write_parquet(file: Path, contents: list[bytes], labels: list[int] | None = LABELS) -> Path:
    """In Hugging Face's layout, three images in a row group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [{"bytes": content, "path": None} for content in contents]}
    if labels is not None:
        columns["label"] = labels
    table = pyarrow.table(columns)
    features = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, file, row_group_size=3)
    return file


def write_all(root: Path, files: dict[str, bytes] = FILES) -> dict[str, Path]:
    """Write the images in each format; return what `data.path` is."""
    names, labels = list(files), [CLASSES.index(name.split("/")[0]) for name in files]
    write_folder(root / "folder", files)
    write_folder(root / "imagenet/train", files)
    lines = [f"{root / 'folder' / n}\t{n.split('/')[0]}" for n in names]
    (root / "list.txt").write_text("# a list\n\n" + "\n".join(lines) + "\n")
    samples = {}
    for name, label in zip(names, labels, strict=True):
        key = name.replace("/", "_").removesuffix(".jpg")
        samples |= {f"{key}.jpg": files[name], f"{key}.cls": str(label).encode()}
    half = len(samples) // 2
    for i, part in enumerate((list(samples)[:half], list(samples)[half:])):
        write_tar(root / f"tar/{i:06}.tar", {name: samples[name] for name in part})
    write_parquet(root / "parquet/0.parquet", [files[n] for n in names[:4]], labels[:4])
    write_parquet(root / "parquet/1.parquet", [files[n] for n in names[4:]], labels[4:])
    return {
        "image_folder": root / "folder",
        "imagenet": root / "imagenet",
        "file_list": root / "list.txt",
        "webdataset": root / "tar",
        "parquet": root / "parquet",
    }


@pytest.fixture
def batches(small_config: Callable[..., Config], tmp_path: Path) -> Callable[..., list[ShardBatch]]:
    """Return a function that makes the batches of steps 2 to 8 of two shards."""

    def run(*overrides: str) -> list[ShardBatch]:
        always = ("train.shards=2", "train.batch_size_per_shard=2", "data.max_bad_ratio=1")
        config = small_config(*always, *overrides)
        dataset = build_dataset(config, "train")
        return list(train_shards(config, dataset, (6, 6), 2, 8))

    return run


def assert_same(ours: list[ShardBatch], theirs: list[ShardBatch]) -> None:
    assert len(ours) == len(theirs) == 12
    for a, b in zip(ours, theirs, strict=True):
        assert a["image_ids"] == b["image_ids"]
        for key in ("collated_global_crops", "collated_local_crops", "collated_masks"):
            assert torch.equal(a[key], b[key]), key


def test_batches_are_the_same_from_every_format(
    tmp_path: Path, batches: Callable[..., list[ShardBatch]]
) -> None:
    """With a bad image among them, in whose place each format takes the same one."""
    files = {**FILES, "ant/03.jpg": BAD["truncated"]}
    paths = write_all(tmp_path, files)
    expected = batches("data.dataset=image_folder", f"data.path={paths['image_folder']}")
    assert any(batch["bad_images"] for batch in expected)
    for name, path in paths.items():
        assert_same(batches(f"data.dataset={name}", f"data.path={path}"), expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("name", ["image_folder", "webdataset", "parquet"])
def test_batches_are_the_same_with_any_number_of_workers(
    tmp_path: Path, batches: Callable[..., list[ShardBatch]], name: str
) -> None:
    files = {**FILES, "bee/07.jpg": BAD["corrupt"]}
    overrides = (f"data.dataset={name}", f"data.path={write_all(tmp_path, files)[name]}")
    expected = batches(*overrides)
    assert [b["bad_images"] for b in expected] == [
        b["bad_images"] for b in batches(*overrides, "data.num_workers=1")
    ]
    for workers in (1, 3):
        assert_same(batches(*overrides, f"data.num_workers={workers}"), expected)


@pytest.mark.parametrize("name", ["image_folder", "imagenet", "file_list", "webdataset", "parquet"])
def test_labels_and_classes(tmp_path: Path, small_config: Callable[..., Config], name: str) -> None:
    path = write_all(tmp_path)[name]
    dataset = build_dataset(small_config(f"data.dataset={name}", f"data.path={path}"), "train")
    assert dataset.labels == LABELS
    assert dataset.classes == (["0", "1"] if name == "webdataset" else list(CLASSES))
    assert len({dataset.name(i) for i in range(10)}) == 10


def test_splits_of_imagenet(tmp_path: Path) -> None:
    """A class that a split lacks keeps its number in the other."""
    write_folder(tmp_path, {"train/n01/a.JPEG": good(0), "train/n03/b.JPEG": good(1)})
    write_folder(tmp_path, {"val/n02/c.JPEG": good(2), "val/n03/d.JPEG": good(3)})
    (tmp_path / "labels.txt").write_text("n01,tench\nn02,shark\nn03,ray\n")
    train, test = (ImageNet(str(tmp_path), split) for split in ("train", "test"))
    assert train.classes == test.classes == ["n01", "n02", "n03"]
    assert (train.labels, test.labels) == ([0, 2], [1, 2])
    assert train.name(1) == "n03/b.JPEG"


def test_splits_of_archives_and_lists(tmp_path: Path) -> None:
    for name in ("interval-train-0", "interval-train-1", "interval-val-0"):
        write_tar(tmp_path / f"tar/{name}.tar", {f"{name}.jpg": good(0)})
        write_parquet(tmp_path / f"parquet/{name}.parquet", [good(0)], None)
    write_folder(tmp_path, {"a b.jpg": good(0), "c.jpg": good(1)})
    (tmp_path / "train.txt").write_text("a b.jpg\n")
    (tmp_path / "val.txt").write_text("c.jpg\n")
    for kind, path in ((WebDataset, "tar"), (Parquet, "parquet")):
        assert len(kind(str(tmp_path / path), "train")) == 2
        assert len(kind(str(tmp_path / path), "test")) == 1
        assert kind(str(tmp_path / path), "train").labels is None
    for pattern in ("interval-train-*.tar", "interval-train-{0..1}.tar"):
        assert len(WebDataset(str(tmp_path / "tar" / pattern), "train")) == 2
    train, test = (FileList(str(tmp_path), split) for split in ("train", "test"))
    assert (train.name(0), test.name(0)) == ("a b.jpg", "c.jpg")
    assert train.image(0).shape == (3, 30, 40)
    assert train.labels is None


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    def fails(
        message: str, make: Callable[..., object], path: object, split: str = "train"
    ) -> None:
        with pytest.raises(UserError, match=message):
            make(None if path is None else str(path), split)

    for kind in (ImageNet, FileList, WebDataset, Parquet):
        fails("Say where", kind, None)
    fails("There is no folder", ImageNet, tmp_path / "none")
    fails("not laid out as ImageNet: there is no folder 'train'", ImageNet, tmp_path)
    (tmp_path / "train").mkdir()
    fails("no images in .*folders of classes", ImageNet, tmp_path)
    fails("no list of images", FileList, tmp_path / "none.txt")
    (tmp_path / "train.txt").write_text("\n# nothing\n")
    fails("no images in the list", FileList, tmp_path)
    fails("no list of images to test with", FileList, tmp_path, "test")
    (tmp_path / "train.txt").write_text("a.jpg\tant\nb.jpg\n")
    fails("1 of 2 lines have no class", FileList, tmp_path)
    fails(r"There is no \.tar file", WebDataset, tmp_path)
    fails(r"There is no \.parquet file", Parquet, tmp_path / "nowhere/*.parquet")
    write_tar(tmp_path / "t/a.tar", {"a.txt": b""})
    fails("no images in the 1 shards", WebDataset, tmp_path / "t")
    fails("no images to test with", WebDataset, tmp_path / "t", "test")
    write_tar(tmp_path / "t/a.tar", {"a.jpg": good(0), "b.jpg": good(1), "b.cls": b"0"})
    fails(r"1 of 2 images .* have no '\.cls'", WebDataset, tmp_path / "t")
    write_tar(tmp_path / "t/a.tar", {"a.jpg": good(0), "a.cls": b"cat"})
    fails(
        r"a\.tar' cannot be used: its file 'a\.cls' holds 'cat', not the number of a class",
        WebDataset,
        tmp_path / "t",
    )
    (tmp_path / "t/a.tar").write_bytes(b"damaged" * 200)
    fails(r"a\.tar' cannot be read", WebDataset, tmp_path / "t")
    (tmp_path / "x.parquet").write_bytes(b"damaged")
    fails(r"x\.parquet' cannot be read", Parquet, tmp_path / "x.parquet")
    parquet.write_table(pyarrow.table({"img": [b""]}), tmp_path / "y.parquet")
    fails("no column 'image'; its columns are img", Parquet, tmp_path / "y.parquet")
    write_parquet(tmp_path / "z.parquet", [], [])
    fails("no images in the 1 files", Parquet, tmp_path / "z.parquet")


def test_what_stands_beside_an_image_is_not_taken_for_it(tmp_path: Path) -> None:
    samples = {"a.jpg": good(0), "a.mask.png": good(1), "a.json": b"{}", "b.mask.png": good(2)}
    dataset = WebDataset(str(write_tar(tmp_path / "a.tar", samples)), "train")
    assert [dataset.name(i) for i in range(len(dataset))] == ["a.tar/a.jpg"]
    assert dataset.read(0) == good(0)


def test_parquet_files_that_are_damaged_or_labeled_with_words(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [good(i) for i in range(6)], None)
    dataset = Parquet(str(file), "train")
    content = bytearray(file.read_bytes())
    content[20:400] = b"\xff" * 380
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"'a\.parquet/0/0' cannot be used .*row group cannot be read"
    ):
        dataset.image(0)
    table = pyarrow.table({"image": [good(0)], "label": ["cat"]})
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="holds text"):
        Parquet(str(tmp_path / "b.parquet"), "train")


class Hiccup(ImageFolder):
    """A disk that fails some times before it gives an image."""

    failures = 0

    def read(self, index: int) -> bytes:
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")
        return super().read(index)


def test_a_disk_with_a_hiccup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch is made of does not depend on it: the image is read again, or the run stops."""
    monkeypatch.setattr("poa_plugin.data.datasets.PAUSES", (0.0, 0.0))
    dataset = Hiccup(str(write_folder(tmp_path, {"a.jpg": good(0)})), "train")
    dataset.failures = 2
    assert dataset.image(0).shape == (3, 30, 40)
    dataset.failures = 3
    with pytest.raises(UserError, match="could not be read, in 3 attempts") as actual:
        dataset.image(0)
    assert not isinstance(actual.value, BadImageError)


@pytest.mark.parametrize("failures", [2, 3])
def test_a_hiccup_as_a_parquet_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Each worker process opens it anew."""
    monkeypatch.setattr("poa_plugin.data.datasets.PAUSES", (0.0, 0.0))
    dataset = Parquet(str(write_parquet(tmp_path / "a.parquet", [good(0)], None)), "train")
    expected, honest, left = dataset.image(0), parquet.ParquetFile, failures

    def opened(path: Path) -> parquet.ParquetFile:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return honest(path)

    monkeypatch.setattr(parquet, "ParquetFile", opened)
    parquet_files._parquet.cache_clear()
    parquet_files._row_group.cache_clear()
    if failures == 2:
        assert torch.equal(dataset.image(0), expected)
    else:
        with pytest.raises(UnreadableImageError, match="could not be read, in 3 attempts"):
            dataset.image(0)


def test_an_archive_that_ends_early(tmp_path: Path) -> None:
    """Its headers are whole: the image that is cut off is named when it is read."""
    file = write_tar(tmp_path / "a.tar", {"a.jpg": good(0), "b.jpg": good(1)})
    dataset = WebDataset(str(file), "train")
    content = file.read_bytes()
    file.write_bytes(content[: int(dataset.places[1][1]) + 100])
    assert dataset.image(0).shape == (3, 30, 40)
    with pytest.raises(UserError, match=r"'a\.tar/b\.jpg' cannot be used .*shard ends within"):
        dataset.image(1)


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    dataset = ImageFolder(str(write_folder(tmp_path, {"a.jpg": good(0)})), "train")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"'a\.jpg' cannot be used \(corrupt\): .*No such file"):
        dataset.image(0)
