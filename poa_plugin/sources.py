"""The inputs of a command: what they are, and a sentence where something else is needed."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from poa_plugin.config.recipes import is_bare, is_run_recipe, recipe_names, recipe_path
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.files import reading

RESULTS = ("results.json", "knn.json", "sweep.json")
RUN_FILES = ("config.yaml", "metrics.jsonl", *(f"eval/{name}" for name in RESULTS))
"""Files that identify a folder as a run's; the last two are of earlier versions."""


def recipe_file(text: str, command: str) -> Path:
    """Return the YAML file that `poa train` and others take: a recipe's name, a file, or a run's folder.

    A bare name is a recipe that comes with the package; what has a separator or ends in .yaml is a path.

    Raises:
        UserError: it does not exist (the nearest name is suggested), cannot be read, is another folder, or is
            the name of a recipe and of a run.
    """
    path = Path(text)
    if is_bare(text):
        if text in recipe_names():
            return _named_recipe(text)
        if not _exists(path):
            nearest = did_you_mean(text, recipe_names())
            raise UserError(
                f"There is no recipe '{text}', and no file or folder of that name{_absence(path)}: {nearest}."
            )
    if _is_dir(path):
        check_run(path)
        return path / "config.yaml"
    if "=" in text and not _exists(path):
        raise UserError(
            f"The configuration file is missing: '{text}' is an override (key=value), and '{command}' takes "
            f"a recipe, a YAML file or a run's folder before them."
        )
    if not _exists(path):
        raise UserError(f"There is no configuration file '{path}'{_absence(path)}.")
    if _is_file(path):  # and no pipe, such as the shell's <(...), which can be opened only once
        _check_readable(path)
    return path


def _named_recipe(name: str) -> Path:
    """Return the file of a recipe, unless the current folder has a run of the same name."""
    if _is_file(Path(name) / "config.yaml"):
        raise UserError(
            f"'{name}' is the name of a recipe and of a run: give './{name}' for the run, or "
            f"'{recipe_path(name)}' for the recipe."
        )
    return recipe_path(name)


def check_run(folder: Path, with_any_of: Iterable[str] = ("config.yaml",)) -> None:
    """Raise if a folder is not the output folder of a run.

    Args:
        folder: to check.
        with_any_of: files, one of which has to exist.

    Raises:
        UserError: it says what the folder is, or that it cannot be read.
    """
    files = [folder / name for name in with_any_of]
    present = [file for file in files if _is_file(file)]
    if not present:
        raise _is_not(folder, "is not the output folder of a run:")
    for file in present:
        _check_readable(file)


def check_extracted(folder: Path) -> None:
    """Raise if a folder is not one that `poa extract` wrote.

    Raises:
        UserError: it says what the folder is, or that it cannot be read.
    """
    if not _is_file(folder / "config.json"):
        raise _is_not(folder, "is no extracted network: there is no config.json;")
    _check_readable(folder / "config.json")


def describe(path: Path) -> str:
    """Return what a file or folder is, judging by the names of its entries, with a hint."""
    if not _is_dir(path):
        return _describe_file(path)
    names = {entry.name for entry in _entries(path)}
    if not names:
        return "it is an empty folder"
    if "config.yaml" in names and ("ckpt" in names or "metrics.jsonl" in names):
        return "it is the output folder of a run, from which 'poa extract' makes networks"
    if {"checksums.json", "state.json"} & names:
        return f"it is one checkpoint of a run: the run's folder is '{_above(path, 2)}'"
    if any(name.isdigit() and _is_file(path / name / "state.json") for name in names):
        return f"it holds the checkpoints of a run: the run's folder is '{_above(path, 1)}'"
    if names & set(RESULTS):
        return f"it holds the evaluations of a run: the run's folder is '{_above(path, 1)}'"
    if {"config.json", "model.safetensors"} <= names:
        return "it is a network that 'poa extract' or 'poa export' wrote"
    if any(_is_file(path / name / "model.safetensors") for name in names):
        return "it holds folders of networks: give one of them"
    runs = sorted(name for name in names if _is_file(path / name / "config.yaml"))
    if runs:
        return f"it holds runs: give one of them, such as '{path / runs[0]}'"
    if "config.yaml" in names:
        return "it has a config.yaml, but nothing that training wrote"
    return "it is another folder, without a config.yaml"


def nearest_path(path: Path) -> str:
    """Return the end of a sentence about a path that does not exist: ` (did you mean '...'?)` or nothing."""
    missing = path
    while not _exists(missing.parent) and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:  # may not be listed, or is a file: there is nothing to suggest
        return ""
    nearest = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if not nearest:
        return ""
    corrected = missing.parent / nearest[0] / path.relative_to(missing)
    return f" (did you mean '{corrected if _exists(corrected) else missing.parent / nearest[0]}'?)"


def _is_not(folder: Path, phrase: str) -> UserError:
    reason = describe(folder) if _exists(folder) else f"there is no such folder{_absence(folder)}"
    return UserError(f"'{folder}' {phrase} {reason}.")


def _absence(path: Path) -> str:
    """Return a remark about a path that does not exist, to be appended to it, or nothing."""
    if _is_circle(path):
        return " (the links in its path lead in a circle)"
    if path.is_symlink():
        return f" (it is a link to '{path.readlink()}', which does not exist)"
    return nearest_path(path)


def _describe_file(path: Path) -> str:
    if path.suffix in (".pth", ".pt", ".safetensors"):
        return "it is a file of weights; 'poa import' makes a run of another code base's checkpoint"
    if path.suffix in (".yaml", ".yml"):
        return f"it is a file; the folder around it is '{path.parent}'"
    return "it is a file"


def _above(path: Path, levels: int) -> Path:
    """Return the folder so many levels above, spelled as the path is where that has so many parts."""
    return (
        path.parents[levels - 1] if len(path.parts) > levels else path.resolve().parents[levels - 1]
    )


def _check_readable(file: Path) -> None:
    with reading(file), file.open("rb"):
        pass


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with reading(folder), os.scandir(folder) as entries:
        return list(entries)


def _exists(path: Path) -> bool:
    with reading(path):
        return path.exists()


def _is_circle(path: Path) -> bool:
    """Tell whether links of a path lead back to themselves; for `exists` there is just nothing then."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _is_dir(path: Path) -> bool:
    with reading(path):
        return path.is_dir()


def _is_file(path: Path) -> bool:
    with reading(path):
        return path.is_file()


def overrides_of(arguments: argparse.Namespace, recipe: Path) -> list[str]:
    """Return the `key=value` overrides; a run whose `config.yaml` is the recipe resumes where that lies."""
    from poa_plugin.config.values import path_override

    folder = recipe.parent
    is_run = os.path.isdir(arguments.config) or is_run_recipe(recipe)  # noqa: PTH112
    return (
        [path_override("output_dir", folder), *arguments.overrides]
        if is_run
        else arguments.overrides
    )
