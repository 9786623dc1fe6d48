"""Image folders of every kind, and the demo photographs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from poa_plugin.data import Elpv, ImageFolder
from poa_plugin.errors import UserError


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/a.jpg", "dog/deep/c.bmp", "cat/notes.txt"):
        write(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    dataset = ImageFolder(str(tmp_path), "train")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels == [0, 1, 1]
    assert [dataset.name(i) for i in range(3)] == ["cat/a.jpg", "dog/b.png", "dog/deep/c.bmp"]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    dataset = ImageFolder(str(tmp_path), "train")
    assert len(dataset) == 1
    assert dataset.labels is None
    with pytest.raises(UserError, match="no folder 'val' or 'test'"):
        ImageFolder(str(tmp_path), "test")


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_split_folders(tmp_path: Path, held_out: str) -> None:
    write(tmp_path / "train/x/a.png")
    write(tmp_path / "train/x/b.png")
    write(tmp_path / held_out / "x/c.png")
    assert len(ImageFolder(str(tmp_path), "train")) == 2
    assert len(ImageFolder(str(tmp_path), "test")) == 1


@pytest.mark.parametrize(
    ("mode", "ending", "channels"),
    [("RGB", "png", 3), ("L", "png", 1), ("1", "png", 1), ("LA", "png", 1), ("RGBA", "png", 3),
     ("P", "png", 3), ("CMYK", "jpg", 3), ("L", "jpg", 1)],
)  # fmt: skip
def test_colour_modes(tmp_path: Path, mode: str, ending: str, channels: int) -> None:
    write(tmp_path / f"a.{ending}", mode)
    image = ImageFolder(str(tmp_path), "train").image(0)
    assert image.shape == (channels, 20, 30)
    assert image.dtype == torch.uint8


def test_large_images_are_reduced(tmp_path: Path) -> None:
    write(tmp_path / "a.png", size=(60, 40))
    write(tmp_path / "b.png", size=(9, 12))
    dataset = ImageFolder(str(tmp_path), "train", image_size=20)
    assert dataset.image(0).shape == (3, 20, 30)
    assert dataset.image(1).shape == (3, 12, 9)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path"):
        ImageFolder(None, "train")
    with pytest.raises(UserError, match="There is no folder"):
        ImageFolder(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match=r"no images in the folder .*\.jpg"):
        ImageFolder(str(tmp_path), "train")
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"a\.png' cannot be read"):
        ImageFolder(str(tmp_path), "train").image(0)


def test_the_demo_photographs() -> None:
    train, test = Elpv(None, "train", 32), Elpv(None, "test", 32)
    assert (len(train), len(test)) == (1968, 656)
    assert set(train.ids).isdisjoint(test.ids)
    assert train.image(0).shape == (1, 32, 32)
    counts = Counter([*train.labels, *test.labels])
    assert max(counts.values()) / 2624 == pytest.approx(0.35, abs=0.005)
    assert train.classes[counts.most_common(1)[0][0]] == "functional poly"
    functional = sum(n for label, n in counts.items() if label < 2)
    assert functional / 2624 == pytest.approx(0.575, abs=0.005)
    with pytest.raises(UserError, match=r"leave data.path out"):
        Elpv("/somewhere", "train")
