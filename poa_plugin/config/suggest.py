"""The nearest key to one that does not exist: by its last part, by its synonyms, by its spelling."""

from __future__ import annotations

import difflib

from poa_plugin.config.keys import Key, Section
from poa_plugin.config.renamed import former_names

CUTOFF = 0.6
"""Below this share of equal letters (`difflib`), two names are not taken for one another."""


def unknown_key(name: str, tree: Section, arch: str | None = None) -> str:
    """Return a sentence about a key that does not exist.

    Args:
        name: dotted, as it was written.
        tree: of all keys.
        arch: the chosen backbone, whose section is preferred.
    """
    near = nearest_keys(name, tree, arch)
    asked = f"did you mean {_either(near)}? " if near else ""
    section = _section_of(name, tree)
    listed = (
        f"Known: {', '.join(section.members)}" if section.name else "'poa config' lists all keys"
    )
    if not asked:
        listed = listed[0].lower() + listed[1:]
    return f"Unknown configuration key '{name}': {asked}{listed}."


def nearest_keys(name: str, tree: Section, arch: str | None = None) -> list[str]:
    """Return the keys that may be meant, at most three; see `unknown_key`.

    Keys of another section are considered too, and what keys are called elsewhere (`Declaration.synonyms`).
    """
    section, last = _section_of(name, tree), _plain(_last(name))
    keys: list[Key | Section] = [
        *tree.leaves(),
        *(below for below in tree.sections() if below.name),
    ]
    also = {
        key.name: [
            _last(key.name),
            *(key.declared.synonyms if isinstance(key, Key) else ()),
            *map(_last, former_names(key.name)),
        ]
        for key in keys
    }
    called = [candidate for candidate, names in also.items() if last in map(_plain, names)]
    inside = [candidate for candidate in called if candidate.rpartition(".")[0] == section.name]
    siblings = {_plain(member): below.name for member, below in section.members.items()}
    if section.name and not inside:
        inside = [siblings[end] for end in difflib.get_close_matches(last, siblings, 1, CUTOFF)]
    nearest = inside if section.name and inside else called
    if not nearest:
        ends = {
            _plain(end): candidate for candidate, names in reversed(also.items()) for end in names
        }
        nearest = [ends[end] for end in difflib.get_close_matches(last, ends, 1, CUTOFF)]
    nearest = nearest or difflib.get_close_matches(name, also, 1, CUTOFF)
    chosen = [
        candidate for candidate in nearest if arch and candidate.startswith(f"student.{arch}.")
    ]
    return (chosen or nearest)[:3]


def _section_of(name: str, tree: Section) -> Section:
    """Return the section that a name begins with; the whole tree where there is none."""
    section = tree
    for part in name.split(".")[:-1]:
        below = section.members.get(part)
        if not isinstance(below, Section):
            break
        section = below
    return section


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _either(names: list[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
