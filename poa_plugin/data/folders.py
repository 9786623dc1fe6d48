"""Images that are files: folders of classes, ImageNet's folders, and lists of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from poa_plugin.data.datasets import EncodedImages, NoSplitError, Split
from poa_plugin.data.endings import IMG_EXTENSIONS
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS


class ImageFiles(EncodedImages):
    """Base of data sets of image files: `files`, paths below `root`."""

    root: Path
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path below the split's folder."""
        return self.files[index]

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        return (self.root / self.files[index]).read_bytes()


@DATASETS.register_as("image_folder")
class ImageFolder(ImageFiles):
    """Image files under a folder, in sorted order; sub-folders are classes.

    Where the folder has `train` and `val` (or `test`) sub-folders, these are the splits; otherwise
    all images are for training (a `train` with no folder beside it is looked into). Where an image
    lies right under its split's folder, there are no labels. Links are followed, hidden files are not images.
    Grey images have one channel (16 bits are reduced to 8), all others three.

    Args:
        path: the folder.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None keeps them.

    Raises:
        UserError: there is no such folder or split, no image in it, or it cannot be read.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        folder = existing(path)
        try:
            self.root = _split_folder(folder, split)
            files = sorted(_image_files(self.root))
        except OSError as error:
            raise UserError(f"The folder '{path}' cannot be read: {error}.") from error
        if not files:
            endings = ", ".join(IMG_EXTENSIONS)
            raise UserError(
                f"There are no images in the folder '{self.root}' (accepted: {endings})."
            )
        relative = [file.relative_to(self.root) for file in files]
        self.files = [str(file) for file in relative]
        folders = [file.parts[:-1] for file in relative]
        self.classes = sorted({parts[0] for parts in folders if parts})
        if all(folders):
            index = {name: i for i, name in enumerate(self.classes)}
            self.labels = [index[parts[0]] for parts in folders]


@DATASETS.register_as("imagenet")
class ImageNet(ImageFiles):
    """ImageNet's folders, as torchvision and DINOv2 lay them out: `train/<wnid>/` and `val/<wnid>/`.

    Classes are the sorted WordNet ids of both splits together; with DINOv2's `labels.txt` (lines
    `wnid,name`) or torchvision's `meta.bin` beside the splits nothing changes. Every file of a
    class's folder with an image's ending is an image; classes, then files, are in sorted order.

    Args:
        path: the folder with `train` and `val` in it.
        split: `train`, or `test` for `val`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: a folder is missing, or no class is in it.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        folder = existing(path)
        self.root = folder / ("train" if split == "train" else "val")
        if not self.root.is_dir():
            kind = NoSplitError if split == "test" else UserError
            raise kind(
                f"'{folder}' is not laid out as ImageNet: there is no folder '{self.root.name}'."
            )
        both = [folder / name for name in ("train", "val") if (folder / name).is_dir()]
        self.classes = sorted({name for root in both for name in _folders(root)})
        self.files, self.labels = [], []
        for label, wnid in enumerate(self.classes):
            if (self.root / wnid).is_dir():
                found = sorted(_names_of_images(self.root / wnid))
                self.files += [f"{wnid}/{name}" for name in found]
                self.labels += [label] * len(found)
        if not self.files:
            raise UserError(
                f"There are no images in '{self.root}': that takes folders of classes, such as "
                f"'{self.root / 'n01440764'}'. Where validation images lie in one folder, sort "
                f"them into such folders first."
            )


@DATASETS.register_as("file_list")
class FileList(ImageFiles):
    """A text file with the path of an image on each line, and after a tab, if you like, its class.

    Paths are relative to the list's folder, or absolute; they may have spaces in them. Empty lines, and
    lines that begin with #, are passed over. The order is the list's. A folder with `train.txt` and
    `val.txt` (or `test.txt`) has both splits; a single file is for training. Classes are the sorted
    names of all lists.

    Args:
        path: the list, or a folder of lists.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: there is no such list, no line in it, or some lines have a class and others not.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        lists = _lists(path)
        if split not in lists:
            raise NoSplitError(
                f"'{path}' has no list of images to {split} with: that is {split}.txt."
            )
        entries = {name: _entries(file) for name, file in lists.items()}
        own = entries[split]
        if not own:
            raise UserError(f"There are no images in the list '{lists[split]}'.")
        self.root = lists[split].parent
        self.files = [file for file, _ in own]
        named = [kind for _, kind in own if kind is not None]
        if named and len(named) < len(own):
            raise UserError(
                f"In the list '{lists[split]}' {len(own) - len(named)} of {len(own)} lines have no "
                f"class after a tab: give all of them one, or none."
            )
        every = {kind for found in entries.values() for _, kind in found if kind is not None}
        self.classes = sorted(every)
        if named:
            index = {name: i for i, name in enumerate(self.classes)}
            self.labels = [index[name] for name in named]


def existing(path: str | None) -> Path:
    """Return the folder that holds a data set.

    Raises:
        UserError: it is not given, or not there.
    """
    if path is None:
        raise UserError("Say where the images are: data.path=/some/folder.")
    if not Path(path).is_dir():
        raise UserError(f"There is no folder '{path}' with images.")
    return Path(path)


def _lists(path: str | None) -> dict[str, Path]:
    if path is None:
        raise UserError("Say where the list of images is: data.path=/some/list.txt.")
    given = Path(path)
    if given.is_file():
        return {"train": given}
    if not given.is_dir():
        raise UserError(f"There is no list of images '{path}'.")
    found = {"train": given / "train.txt"}
    held_out = [given / name for name in ("val.txt", "test.txt") if (given / name).is_file()]
    if held_out:
        found["test"] = held_out[0]
    return {name: file for name, file in found.items() if file.is_file()}


def _entries(file: Path) -> list[tuple[str, str | None]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list '{file}' cannot be read: {error}.") from error
    found: list[tuple[str, str | None]] = []
    for line in lines:
        name, tab, kind = line.partition("\t")
        if name.strip() and not name.startswith("#"):
            found.append((name.strip(), kind.strip() if tab else None))
    return found


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]


def _names_of_images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMG_EXTENSIONS) and not entry.name.startswith(".")
        ]


def _split_folder(path: Path, split: Split) -> Path:
    """Return the folder of a split; `train` may also be the name of a class, among others."""
    folders = {entry.name for entry in path.iterdir() if entry.is_dir()}
    held_out = [name for name in ("val", "test") if name in folders]
    if "train" in folders and held_out:
        return path / ("train" if split == "train" else held_out[0])
    if split == "train":
        return path / "train" if folders == {"train"} else path
    raise NoSplitError(
        f"'{path}' has no images to test with: "
        f"that takes a folder 'train' in it, and a folder 'val' or 'test'."
    )


def _image_files(folder: Path, around: frozenset[Path] = frozenset()) -> Iterator[Path]:
    real = folder.resolve()
    if real in around:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _image_files(folder / entry.name, around | {real})
            elif entry.name.lower().endswith(IMG_EXTENSIONS) and entry.is_file():
                yield folder / entry.name
