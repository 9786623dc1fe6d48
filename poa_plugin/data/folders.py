"""Images that are files: folders of classes, ImageNet's folders, and lists of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from poa_plugin.data.datasets import EncodedImages, NoSplitError, Split
from poa_plugin.data.file_lists import read_list
from poa_plugin.data.left_out import IMAGE_ENDINGS
from poa_plugin.data.names import Integers, Names, joined, prefixed, printable
from poa_plugin.data.reading import kind_of, nearest_folder, read_errors
from poa_plugin.data.scan import image_files, is_folder, leave_out, names_of_images, subfolders
from poa_plugin.errors import UserError
from poa_plugin.registry import DATASETS

HELD_OUT = ("val", "validation", "test")
DATASETS_BY_ENDING = {
    ".tar": "webdataset", ".parquet": "parquet", ".txt": "file_list", ".tsv": "file_list",
    ".lst": "file_list",
}  # fmt: skip


class ImageFiles(EncodedImages):
    """Base of data sets of image files: `files`, paths below `root`."""

    root: Path
    files: Names

    def __len__(self) -> int:
        return len(self.files)

    def all_names(self) -> Names:
        """See `EncodedImages.all_names`."""
        return self.files

    def name(self, index: int) -> str:
        """Return the path below the split's folder."""
        return self.files[index]

    def read(self, index: int) -> bytes:
        """See `EncodedImages.read`."""
        return (self.root / self.files[index]).read_bytes()


@DATASETS.register_as("image_folder")
class ImageFolder(ImageFiles):
    """Image files under a folder, in sorted order; sub-folders are classes.

    Where the folder has `train` and `val` (or `validation`, or `test`) sub-folders, these are the splits;
    otherwise all images are for training (a `train` with no folder beside it is opened). Where an image
    lies right under its split's folder, there are no labels. Links are followed, hidden files are not images.
    Gray images have one channel (16 bits are reduced to 8), all others three.

    Args:
        path: the folder.
        split: `train` or `test`.
        image_size: the shorter side to which images are reduced after decoding; None leaves them.

    Raises:
        UserError: there is no such folder or split, no image in it, or it cannot be read.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        folder = existing(path)
        with read_errors("folder", folder):
            self.root = _split_folder(folder, split, self.notes)
            groups = list(image_files(self.root, "", self.left_out))
        if not groups:
            others = f" {self.left_out}." if self.left_out else ""
            raise UserError(
                f"There are no images in the folder '{self.root}' (accepted: "
                f"{', '.join(IMAGE_ENDINGS)}).{others}"
            )
        self.files = Names(b"".join(text for _, text, _ in groups))
        self.classes = sorted({top for top, _, _ in groups if top})
        if all(top for top, _, _ in groups):
            index = {name: i for i, name in enumerate(self.classes)}
            counts = [count for _, _, count in groups]
            self.labels = Integers(np.repeat([index[top] for top, _, _ in groups], counts))


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
        UserError: a folder is missing, cannot be read, or contains no class.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        folder = existing(path)
        roots = [folder / name for name in ("train", "val") if kind_of(folder / name) == "folder"]
        self.root = folder / ("train" if split == "train" else "val")
        if self.root not in roots:
            kind = NoSplitError if split == "test" else UserError
            raise kind(
                f"'{folder}' is not laid out as ImageNet: there is no folder '{self.root.name}'."
            )
        with read_errors("folder", folder):
            folders = {root: subfolders(root) for root in roots}
            self.classes = sorted({name for names in folders.values() for name in names})
            texts, counts = self._read_classes(set(folders[self.root]))
        self.files = Names(b"".join(texts))
        self.labels = Integers(np.repeat(np.arange(len(self.classes)), counts))
        if not self.files:
            raise UserError(
                f"There are no images in '{self.root}': that takes folders of classes, such as "
                f"'{self.root / 'n01440764'}'. Where validation images lie in one folder, sort "
                f"them into such folders first."
            )

    def _read_classes(self, present: set[str]) -> tuple[list[bytes], list[int]]:
        """Return the images of each class and their numbers; count the files beside them."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                if not is_folder(entry):
                    leave_out(
                        self.left_out, entry.name, entry.name, "an image in no class's folder"
                    )
        texts, counts = [], []
        for wnid in self.classes:
            names = (
                names_of_images(self.root / wnid, wnid, self.left_out) if wnid in present else []
            )
            texts.append(prefixed(f"{wnid}/", joined(sorted(names))))
            counts.append(len(names))
        return texts, counts


@DATASETS.register_as("file_list")
class FileList(ImageFiles):
    """A text file with the path of an image on each line, and after a tab, if you like, its class.

    Paths are relative to the list's folder, or absolute; they may have spaces in them, and any ending. Empty
    lines, and lines that begin with #, are passed over. The order is the list's. A folder with `train.txt` and
    `val.txt` (or `validation.txt`, `test.txt`) has both splits; a single file is for training. Classes are the
    sorted names of all lists.

    Args:
        path: the list, or a folder of lists.
        split: `train` or `test`.
        image_size: see `EncodedImages`.

    Raises:
        UserError: there is no such list, it cannot be read, there is no line in it, or some lines have a class
            and others do not.
    """

    def __init__(self, path: str | None, split: Split, image_size: int | None = None) -> None:
        super().__init__(path, split, image_size)
        lists = _lists(path)
        if split not in lists:
            raise NoSplitError(
                f"'{path}' has no list of images to {split} with: that is {split}.txt."
            )
        entries = {name: read_list(file) for name, file in lists.items()}
        listed = entries[split]
        if not listed.files:
            raise UserError(f"There are no images in the list '{lists[split]}'.")
        self.root, self.files = lists[split].parent, listed.files
        without = int((listed.labels < 0).sum())
        if 0 < without < len(self.files):
            raise UserError(
                f"In the list '{lists[split]}' {without} of {len(self.files)} lines have no "
                f"class after a tab: give all of them one, or none."
            )
        self.classes = sorted(
            {name for listed_files in entries.values() for name in listed_files.classes}
        )
        if not without:
            index = {name: i for i, name in enumerate(self.classes)}
            numbers = np.array([index[name] for name in listed.classes])
            self.labels = Integers(numbers[listed.labels])


def existing(path: str | None) -> Path:
    """Return the folder that holds a data set.

    Raises:
        UserError: it is not set, does not exist, or is a file.
    """
    if path is None:
        raise UserError("Say where the images are: data.path=/some/folder.")
    kind = kind_of(path)
    if kind == "file":
        name = DATASETS_BY_ENDING.get(Path(path).suffix.lower())
        hint = f"; for such files there is data.dataset={name}" if name else ""
        raise UserError(f"'{path}' is a file, not a folder with images{hint}.")
    if not kind:
        raise UserError(f"There is no folder '{path}' with images: {nearest_folder(path)}.")
    return Path(path)


def _lists(path: str | None) -> dict[str, Path]:
    if path is None:
        raise UserError("Say where the list of images is: data.path=/some/list.txt.")
    place, kind = Path(path), kind_of(path)
    if kind == "file":
        return {"train": place}
    if not kind:
        raise UserError(f"There is no list of images '{path}': {nearest_folder(path)}.")
    held_out = [name for name in HELD_OUT if kind_of(place / f"{name}.txt") == "file"]
    lists = {"train": place / "train.txt"}
    if held_out:
        lists["test"] = place / f"{held_out[0]}.txt"
    return {name: file for name, file in lists.items() if kind_of(file) == "file"}


def _split_folder(path: Path, split: Split, notes: list[str]) -> Path:
    """Return the folder of a split; `train` may also be the name of a class, among others."""
    names, files = [], 0
    with os.scandir(path) as entries:
        for entry in entries:
            if is_folder(entry):
                names += [] if entry.name.startswith(".") else [entry.name]
            else:
                files += entry.name.lower().endswith(IMAGE_ENDINGS)
    folders = {name: _named(path, names, name) for name in ("train", *HELD_OUT)}
    held_out = [name for name in HELD_OUT if folders[name]]
    training = folders["train"]
    if training and (held_out or len(names) == 1):
        splits = {training, *(folders[name] for name in held_out)}
        others = [f"the folder '{printable(name)}'" for name in sorted(set(names) - splits)]
        others += [f"{files} images"] if files else []
        if others:
            notes.append(
                f"Beside the splits in '{path}' there are {', '.join(others)}: they are left out"
            )
        if split == "train":
            return path / training
        if held_out:
            return path / str(folders[held_out[0]])
    if split == "train":
        return path
    raise NoSplitError(
        f"'{path}' has no images to test with: "
        f"that takes a folder 'train' in it, and a folder 'val' or 'test'."
    )


def _named(path: Path, folders: list[str], name: str) -> str | None:
    """Return the folder of a name, in upper or lower case."""
    matches = [folder for folder in folders if folder.lower() == name]
    if len(matches) > 1:
        raise UserError(
            f"In '{path}' the folders {' and '.join(sorted(matches))} could both be the split '{name}': "
            f"rename one."
        )
    return matches[0] if matches else None
