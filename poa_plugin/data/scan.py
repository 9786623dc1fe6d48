"""Folders of images, read by `os.scandir`: a million files in seconds; other files are counted."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from poa_plugin.data.left_out import IMAGE_ENDINGS, LeftOut
from poa_plugin.data.names import joined, prefixed

LINK = "a link to nothing"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file, or a link to one; a link in a circle is none."""
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def subfolders(root: Path) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones."""
    with os.scandir(root) as entries:
        return [e.name for e in entries if is_folder(e) and not e.name.startswith(".")]


def names_of_images(folder: Path, shown: str, left_out: LeftOut) -> list[str]:
    """Return the names of the images in a class's folder; count what else is in it."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if name.lower().endswith(IMAGE_ENDINGS):
                names.append(name)
            elif is_folder(entry):
                left_out.add("a folder in a class's folder", f"{shown}/{name}")
            else:
                left_out.add_file(name, f"{shown}/{name}")
    return names


def image_files(
    root: Path, below: str, left_out: LeftOut, around: frozenset[str] = frozenset()
) -> Iterator[tuple[str, bytes, int]]:
    """Yield runs of images under a folder in sorted order, folders among files.

    Args:
        root: the folder of the split.
        below: a folder under it, with a slash at its end.
        left_out: where other files are counted.
        around: the folders that this one lies in, links followed.

    Yields:
        The folder right under the root that they lie in (empty for the root), their paths as `Names` takes
        them, and how many they are.
    """
    real = os.path.realpath(root / below)
    if real in around:  # a link to a folder that it lies in
        return
    images, folders = [], []
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            is_image = name.lower().endswith(IMAGE_ENDINGS)
            if is_image and is_file(entry):
                images.append(name)
            elif is_folder(entry):
                folders.append(name)
            else:
                leave_out(left_out, name, below + name, LINK)
    images.sort()
    top, start = below.partition("/")[0], 0
    for folder in (*sorted(folders), None):
        stop = len(images) if folder is None else bisect_right(images, folder)
        if stop > start:
            yield top, prefixed(below, joined(images[start:stop])), stop - start
        if folder is not None:
            yield from image_files(root, f"{below}{folder}/", left_out, around | {real})
        start = stop


def leave_out(left_out: LeftOut, name: str, path: str, kind_of_image: str) -> None:
    """Count a file that is not used; an image under a kind that says why."""
    if name.startswith("."):
        return
    if name.lower().endswith(IMAGE_ENDINGS):
        left_out.add(kind_of_image, path)
    else:
        left_out.add_file(name, path)
