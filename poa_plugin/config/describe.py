"""What `poa config` prints, and `docs/configuration.md`: every key with default, values and meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from omegaconf import MISSING

from poa_plugin.config.fields import show
from poa_plugin.config.keys import Key, Section, all_keys
from poa_plugin.config.ranges import possible
from poa_plugin.config.renamed import RENAMED, former_names
from poa_plugin.config.suggest import unknown_key
from poa_plugin.errors import UserError

INTRODUCTION = """# Configuration

<!-- Made by `poa config --markdown` from poa_plugin/config; change it there. -->

A recipe is a YAML file with the keys that differ from the schema's defaults, which are the paper's ViT
recipe. `key=value` overrides on the command line take precedence over the file; the last one wins. Unknown
keys, wrong types, values out of range and keys that contradict each other are refused before anything starts.
Keys have DINOv2's names where DINOv2 has them. The resolved configuration is saved in the run's folder. `poa
config` prints these tables; `poa config KEY` prints a key, a section, or all keys with KEY in their names.

## How values are read

* Text is taken as it is typed: `"data.path=/data/flat #2"`, `output_dir=1.10`, `output_dir=on`. In a YAML
  file, comments and quotes have YAML's meaning, and nothing else is interpreted.
* `~` and `~user` at the start of a path are home folders.
* `null` means no value, for keys that allow it. In files, an empty value and `~` mean the same. A folder
  called null is `./null`.
* `${train.seed}` is the value of another key. `${oc.env:NAME}` is the value of an environment variable, which
  must be set; `${oc.env:NAME,text}` has a default. `\\${` is the text `${`.
* Numbers are `30`, `1e-3`, `.5`, `1_000`; never `nan` or `inf`. Truth values are `true`, `false`, `yes`,
  `no`, `on`, `off`. Lists are `[1, 2]`.
* A warm-up longer than the training is only a warning, so that a long recipe can be tried for a few steps.

## Options of your own backbone

The `Options` dataclass of a registered backbone is the section `student.<name>`. Declare the ranges and
meanings of its fields with the schema's functions; `poa config student.mine --imports my_package` prints
them:

    from poa_plugin.config.fields import choice, number

    @dataclass
    class Options:
        width: int = number(64, "channels", at_least=1, at_most=4096)
        kind: str = choice("plain", ("plain", "gated"), "of block")

Fields without a declaration are checked for their type, and `nan` and `inf` are refused. An error that a
backbone raises while it is built is reported as a one-sentence message.
"""


def config_text(name: str | None = None) -> str:
    """Return every key for a terminal, or those that a name stands for.

    Args:
        name: a key, a section, or a part of keys' names; all keys if None.

    Raises:
        UserError: no key has this name, nor one that contains it.
    """
    tree = all_keys()
    if name is None:
        return "\n\n".join(_section_text(section) for section in tree.sections() if _own(section))
    keys = {key.name: key for key in tree.leaves()}
    if name in RENAMED:
        return f"'{name}' is now '{RENAMED[name]}'.\n{_key_text(keys[RENAMED[name]])}"
    if name in keys:
        return _key_text(keys[name])
    named = [section for section in tree.sections() if section.name == name]
    if named:
        return "\n\n".join(
            _section_text(section) for section in named[0].sections() if _own(section)
        )
    wanted = name.lower()
    matches = [key for key in keys.values() if wanted in key.declared.synonyms]
    for key in keys.values():
        names = (key.name, *former_names(key.name))
        if key not in matches and any(wanted in former.lower() for former in names):
            matches.append(key)
    if not matches:
        raise UserError(unknown_key(name, tree))
    return "\n".join(map(_key_text, matches))


def markdown() -> str:
    """Return `docs/configuration.md`."""
    return "\n".join([INTRODUCTION, *_tables(all_keys())])


def _tables(tree: Section) -> Iterator[str]:
    yield "## Keys\n"
    for section in tree.sections():
        if not _own(section):
            continue
        yield f"### {section.name or 'At the top'}\n"
        yield f"{_one_line(section.meaning)}\n"
        yield "| key | default | values | meaning |\n|---|---|---|---|"
        for key in _own(section):
            cells = (f"`{key.name}`", _default(key), possible(key), key.declared.meaning)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""


def _section_text(section: Section) -> str:
    title = f"{section.name or 'at the top'}: {_one_line(section.meaning)}"
    return "\n".join([textwrap.fill(title, 100), *map(_key_text, _own(section))])


def _key_text(key: Key) -> str:
    lines = [f"  {key.name} = {_default(key).replace('`', '')}"]
    for text in (key.declared.meaning, possible(key)):
        indent = " " * 6
        lines += textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _own(section: Section) -> list[Key]:
    """Return the keys of a section, without those of sections in it."""
    return [member for member in section.members.values() if isinstance(member, Key)]


def _default(key: Key) -> str:
    return "none" if key.default == MISSING else f"`{show(key.default)}`"


def _one_line(text: str) -> str:
    return " ".join(text.split())
