"""The recipes that come with the package, found by name from anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.files import reading

PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path:
    """Return where the recipes are: in an installed package, or beside it in a clone.

    Raises:
        UserError: the package was installed without them.
    """
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "configs/ssl"):
        if folder.is_dir():
            return folder
    raise UserError(
        f"The recipes are missing: there is neither '{PACKAGE / 'recipes'}' nor "
        f"'{PACKAGE.parent / 'configs/ssl'}'; install poa-plugin again."
    )


def recipe_names() -> list[str]:
    """Return the names of the recipes in alphabetical order."""
    return sorted(file.stem for file in recipe_folder().glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        UserError: there is none of that name.
    """
    if name not in recipe_names():
        raise UserError(f"There is no recipe '{name}': {did_you_mean(name, recipe_names())}.")
    return recipe_folder() / f"{name}.yaml"


def find_recipe(path: str | Path) -> Path:
    """Return a recipe's file by its name, such as `vit`; what is no recipe's name is a path."""
    if isinstance(path, str) and is_bare(path) and path in recipe_names():
        return recipe_path(path)
    return Path(path)


def is_bare(text: str) -> bool:
    """Return whether an argument is a name, and neither a path nor a `key=value` override."""
    separators = {os.sep, os.altsep or os.sep, "="}
    return not separators & set(text) and Path(text).suffix not in (".yaml", ".yml")


def is_run_recipe(file: Path) -> bool:
    """Return whether a file is the `config.yaml` of a run, beside which training has written something.

    Raises:
        UserError: its folder cannot be read.
    """
    if file.name != "config.yaml":
        return False
    with reading(file):
        return any(file.with_name(name).exists() for name in ("ckpt", "metrics.jsonl"))


def recipe_table() -> str:
    """Return the names of all recipes, each with what it says of itself."""
    names = recipe_names()
    wide = max(map(len, names))
    return "\n".join(f"{name:<{wide}}  {recipe_summary(name)}" for name in names)


def recipe_summary(name: str) -> str:
    """Return the first sentence of a recipe's opening comment."""
    words = []
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words += line.removeprefix("#").split()
        ends = [i for i, word in enumerate(words) if word.endswith(".")]
        if ends:
            return " ".join(words[: ends[0] + 1])
    return " ".join(words)
