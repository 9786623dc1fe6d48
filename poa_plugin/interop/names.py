"""Names in a file: which branch and part of a network they are of, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from poa_plugin.errors import UserError
from poa_plugin.interop.families import Family
from poa_plugin.interop.formats import Format, backbone_key, head_key

BRANCHES = ("student", "teacher")
BRANCH_PREFIXES = ("student.", "teacher.")
HEADS = ("dino_head.", "ibot_head.")
LOSSES = {"dino_loss": "cls_targets", "ibot_patch_loss": "patch_targets"}
"""Where running centers are kept: here, by where they are in a file."""
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Prefixes that wrappers of modules leave in names."""


def full_names(keys: Collection[str]) -> dict[str, str]:
    """Return names that say branch and part by the file's names; a bare network is a teacher's backbone."""
    names = {key: _WRAPPERS.sub("", key) for key in keys}
    if not any(name.startswith(BRANCH_PREFIXES) for name in names.values()):
        names = {
            key: name if name.startswith(tuple(LOSSES)) else f"teacher.{name}"
            for key, name in names.items()
        }
    for prefix in BRANCH_PREFIXES:
        if not any(name.startswith(f"{prefix}backbone.") for name in names.values()):
            for key, name in names.items():
                inner = name.removeprefix(prefix)
                if inner != name and not inner.startswith(HEADS):
                    names[key] = f"{prefix}backbone.{inner}"
    return names


def inner_name(name: str) -> str:
    """Return a name without its first part."""
    return name.partition(".")[2]


def refuse_others(names: Mapping[str, str], family: Family, file: Path) -> None:
    """Refuse a network that has what the backbone here has not."""
    for pattern, what in family.others.items():
        for key, name in names.items():
            if re.search(pattern, name):
                raise UserError(
                    f"The network in '{file}' has {what} ('{key}'), which the {family.name} here has not: "
                    f"without that it would be another network."
                )


def our_name(name: str, format_: Format, family: Family) -> str:
    """Return our name of a full name; one that is unknown here as it is."""
    branch, _, inner = name.partition(".")
    if branch in LOSSES and (match := re.fullmatch(r"center(?:_(\d+))?", inner)):
        return f"{LOSSES[branch]}.center_{match[1] or 0}"
    part, _, inner = inner.partition(".")
    if part == "backbone":
        return f"{branch}.backbone.{backbone_key(format_, family.name, inner)}"
    return f"{branch}.dino_head.{head_key(inner)}" if part == "dino_head" else name


def keys_left_out(names: Mapping[str, str], drop: Sequence[str], file: Path) -> list[str]:
    """Return the file's names of what is to be left out."""
    left_out = []
    for name in drop:
        pattern = rf"((student|teacher)\.)?(backbone\.)?{re.escape(name)}(\..*)?"
        keys = [key for key, full_name in names.items() if re.fullmatch(pattern, full_name)]
        if not keys:
            raise UserError(f"Nothing in '{file}' is called '{name}', which was to be left out.")
        left_out += keys
    return left_out


def quoted(keys: Iterable[str]) -> str:
    """Return names in quotes, separated by commas."""
    return ", ".join(f"'{key}'" for key in keys)
