"""Archives by pattern, and which of them are for training: their names decide."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from poa_plugin.data.datasets import NoSplitError, Split
from poa_plugin.data.left_out import LeftOut
from poa_plugin.data.names import printable
from poa_plugin.data.reading import kind_of, nearest_folder, read_errors
from poa_plugin.data.scan import is_folder
from poa_plugin.errors import UserError

TRAIN, HELD_OUT = frozenset({"train"}), frozenset({"val", "valid", "validation", "test"})
MOST_NAMES = 1_000_000
SHOWN = 3
MAGIC = re.compile(r"[*?\[]")


class Archives(NamedTuple):
    """The archives of a split in sorted order, notes about them, and the other files in their folder."""

    files: list[Path]
    notes: list[str]
    left_out: LeftOut


def split_files(path: str | None, split: Split, ending: str) -> Archives:
    """Return the archives of a split.

    An archive with the word `val`, `valid`, `validation` or `test` in its name, and without `train`, is
    for testing; every other is for training. Words are runs of letters, in upper or lower case.

    Args:
        path: a folder; a file; or a pattern with `*`, `?`, `[...]` and braces (`{000..146}`, `{a,b}`), which
            must all exist.
        split: `train` or `test`.
        ending: such as `.tar`.

    Raises:
        UserError: there is no such archive, one that the pattern names is missing, or the split has none.
    """
    if path is None:
        raise UserError(f"Say where the {ending} files are: data.path=/some/folder.")
    left_out = LeftOut()
    notes: list[str] = []
    if kind_of(path) == "folder":
        with read_errors("folder", path):
            files = _in_folder(Path(path), ending, left_out)
        depth = len(Path(path).parts)
    else:
        files, depth = _matching_all(path, ending)
    if not files:
        others = f" {left_out}." if left_out else ""
        raise UserError(f"There is no {ending} file at '{path}'.{others}")
    held_out = [file for file in files if _is_held_out(file, depth)]
    training = [file for file in files if file not in set(held_out)]
    if split == "test":
        if not held_out:
            raise NoSplitError(
                f"'{path}' has no images to test with: that takes the word 'val' or 'test' in the names of "
                f"some of its {ending} files."
            )
        return Archives(held_out, notes, left_out)
    if not training:
        raise NoSplitError(
            f"By their names all {len(files)} {ending} files of '{path}' are for testing ({_few(held_out)}): "
            f"name those for training, or link the files under other names."
        )
    if held_out:
        notes.append(
            f"{len(held_out)} of the {len(files)} {ending} files at '{path}' are for testing by their names, "
            f"and not trained on: {_few(held_out)}"
        )
    return Archives(training, notes, left_out)


def expand_braces(pattern: str) -> list[str]:
    """Return the texts that a pattern with braces stands for, as in bash.

    `{000..146}` and `{0..146..2}` are numbers (zero-padded if one is), `{a..e}` letters, `{a,b}` choices; they
    may be nested. Braces of another kind stand for themselves.

    Raises:
        UserError: it stands for more than a million.
    """
    for start, end in _groups(pattern):
        choices = _choices(pattern[start + 1 : end])
        if choices is not None:
            tails = expand_braces(pattern[end + 1 :])
            if len(choices) * len(tails) > MOST_NAMES:
                raise UserError(f"The pattern '{pattern}' stands for more than {MOST_NAMES} names.")
            return [pattern[:start] + choice + tail for choice in choices for tail in tails]
    return [pattern]


def matching(pattern: str) -> list[Path]:
    """Return the files that match a pattern without braces; a path that exists literally is not a pattern.

    Raises:
        OSError: a folder on the way cannot be read.
    """
    first, *parts = Path(pattern).parts or (".",)
    places = [Path(first)] if Path(pattern).is_absolute() else [Path()]
    for part in parts if Path(pattern).is_absolute() else [first, *parts]:
        literal = [place / part for place in places if _exists(place / part)]
        if literal or not MAGIC.search(part):
            places = literal
        else:
            places = [place / name for place in places for name in _names(place, part)]
    return places


def unambiguous(files: Sequence[Path]) -> list[str]:
    """Return the names of files, with the folders that tell them apart if some have the same name."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([file.absolute().parent for file in files])
    return [str(file.absolute().relative_to(common)) for file in files]


def _in_folder(folder: Path, ending: str, left_out: LeftOut) -> list[Path]:
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or is_folder(entry):
                continue
            if entry.name.lower().endswith(ending):
                files.append(folder / entry.name)
            else:
                left_out.add_file(entry.name)
    return sorted(files)


def _matching_all(pattern: str, ending: str) -> tuple[list[Path], int]:
    """Return the files under a pattern, each once, and how many parts of its path are not patterns."""
    with read_errors("pattern", pattern):
        if _exists(Path(pattern)):
            return [Path(pattern)], len(Path(pattern).parts) - 1
        names = expand_braces(pattern)
        matches = {name: [p for p in matching(name) if not p.is_dir()] for name in names}
    missing = [name for name, files in matches.items() if not files]
    if missing and len(names) == 1:
        shown = "" if MAGIC.search(pattern) else f": {nearest_folder(pattern)}"
        raise UserError(f"There is no {ending} file at '{pattern}'{shown}.")
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(matches)} {ending} files that '{pattern}' stands for are missing: "
            f"{_few([Path(name) for name in missing])}."
        )
    levels = zip(*(Path(name).parts[:-1] for name in names), strict=False)
    fixed = takewhile(lambda level: len(set(level)) == 1 and not MAGIC.search(level[0]), levels)
    return sorted({file for files in matches.values() for file in files}), len(list(fixed))


def _is_held_out(file: Path, depth: int) -> bool:
    """Return whether an archive is for testing, from the words in its path below a depth."""
    letter_runs = set(re.split(r"[^a-z]+", "/".join(file.parts[depth:]).lower()))
    return bool(letter_runs & HELD_OUT) and not letter_runs & TRAIN


def _groups(pattern: str) -> list[tuple[int, int]]:
    """Return the places of matching braces, in the order in which they open."""
    opened, groups = [], []
    for i, character in enumerate(pattern):
        if character == "{":
            opened.append(i)
        elif character == "}" and opened:
            groups.append((opened.pop(), i))
    return sorted(groups)


def _choices(inside: str) -> list[str] | None:
    """Return what a pair of braces stands for, or None if it stands for itself."""
    numbers = re.fullmatch(r"(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.(-?[0-9]+))?", inside)
    letters = re.fullmatch(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?[0-9]+))?", inside)
    if numbers:
        ends = numbers[1], numbers[2]
        padded = any(re.match("-?0[0-9]", end) for end in ends)
        width = max(map(len, ends)) if padded else 0
        return [
            f"{i:0{width}}" for i in _range(int(numbers[1]), int(numbers[2]), numbers[3], inside)
        ]
    if letters:
        return [chr(i) for i in _range(ord(letters[1]), ord(letters[2]), letters[3], inside)]
    depth, starts = 0, [0]
    for i, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            starts.append(i + 1)
    if len(starts) == 1:
        return None
    ends_at = [start - 1 for start in starts[1:]] + [len(inside)]
    return [
        name
        for start, end in zip(starts, ends_at, strict=True)
        for name in expand_braces(inside[start:end])
    ]


def _range(first: int, last: int, step: str | None, inside: str) -> range:
    by = abs(int(step or 1)) or 1
    if abs(last - first) // by >= MOST_NAMES:
        raise UserError(f"The range '{{{inside}}}' stands for more than {MOST_NAMES} names.")
    return range(first, last + 1, by) if first <= last else range(first, last - 1, -by)


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no path: {error}.") from error
    return True


def _names(folder: Path, pattern: str) -> list[str]:
    """Return the names in a folder that a pattern of one part of a path matches."""
    hidden = pattern.startswith(".")
    try:
        names = os.listdir(folder)  # noqa: PTH208 (an empty path is the current folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [n for n in names if fnmatchcase(n, pattern) and (hidden or not n.startswith("."))]


def _few(files: list[Path]) -> str:
    names = [printable(file.name) for file in sorted(files)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
