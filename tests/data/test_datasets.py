"""Image folders of every kind, and the demo photographs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from poa_plugin.config.schema import Config
from poa_plugin.data import Elpv, ImageFolder, build_dataset, elpv
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
    with pytest.raises(UserError, match=r"has no images to test with.*'val' or 'test'"):
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
def test_color_modes(tmp_path: Path, mode: str, ending: str, channels: int) -> None:
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
    with pytest.raises(UserError, match=r"a\.png' cannot be used"):
        ImageFolder(str(tmp_path), "train").image(0)


def test_the_demo_photographs() -> None:
    pytest.importorskip("elpv_dataset", reason="the photographs are a package of their own")
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


def test_train_can_be_a_class(tmp_path: Path) -> None:
    write(tmp_path / "train/a.png")
    write(tmp_path / "car/b.png")
    dataset = ImageFolder(str(tmp_path), "train")
    assert (dataset.classes, dataset.labels) == (["car", "train"], [0, 1])


def test_a_train_folder_alone_is_looked_into(tmp_path: Path) -> None:
    write(tmp_path / "train/x/a.png")
    assert ImageFolder(str(tmp_path), "train").classes == ["x"]
    with pytest.raises(UserError, match="has no images to test with"):
        ImageFolder(str(tmp_path), "test")


def test_links_are_followed_and_hidden_files_left_out(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.png")
    write(tmp_path / "data/dog/b.png")
    write(tmp_path / "data/dog/._b.png")
    write(tmp_path / "data/.trash/c.png")
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog/round").symlink_to(tmp_path / "data")
    (tmp_path / "data/dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = ImageFolder(str(tmp_path / "data"), "train")
    assert [dataset.name(i) for i in range(len(dataset))] == ["cat/a.png", "dog/b.png"]


def test_sixteen_bits_are_reduced_to_eight(tmp_path: Path) -> None:
    levels = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = ImageFolder(str(tmp_path), "train").image(0)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy((levels // 256).astype(np.uint8))[None])


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="floating-point"):
        ImageFolder(str(tmp_path), "train").image(0)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    """Read without a warning (warnings are errors here), its colors kept."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    palette = Image.fromarray(noise).convert("P")
    palette.save(tmp_path / "a.png", transparency=bytes(range(256)))
    image = ImageFolder(str(tmp_path), "train").image(0)
    assert torch.equal(image, torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))


def test_what_the_demo_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", None)
    elpv._elpv.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'poa-plugin\[demo\]'"):
        Elpv(None, "train", 32)


def test_a_data_set_is_built_from_its_name(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    write(tmp_path / "a.png", size=(60, 40))
    config = small_config(
        "data.dataset=image_folder", f"data.path={tmp_path}", "data.image_size=20"
    )
    assert build_dataset(config, "train").image(0).shape == (3, 20, 30)
