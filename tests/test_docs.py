"""The docs' commands and examples are understood; `make test-docs` runs them, `make docs` checks links."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from poa_plugin.cli import build_parser
from tests.readme.commands import ROOT, Command, pages, python_blocks, readme_commands

COMMANDS = [(page, command) for page in pages() for command in readme_commands(page)]


def test_there_are_commands_and_examples() -> None:
    poa = [command for _, command in COMMANDS if "poa " in command.text]
    assert sum(not command.needs for command in poa) >= 20
    titles = [block.title for page in pages() for block in python_blocks(page)]
    assert {"zip_images.py", "contrast_vit.py", "variance_term.py", "npz_format.py"} <= {*titles}
    named = [title for title in titles if title]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{p.stem}-{i}" for i, (p, _) in enumerate(COMMANDS)]
)
def test_commands_are_understood(page: Path, command: Command) -> None:
    argv = shlex.split(command.text.removeprefix("PYTHONPATH=. "), comments=True)
    if argv[0] == "poa":
        redirected = argv.index(">") if ">" in argv else len(argv)
        build_parser().parse_args(argv[1:redirected])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_python_is_python(page: Path) -> None:
    for block in python_blocks(page):
        compile(block.text, block.title or page.name, "exec")


def test_a_page_includes_files() -> None:
    [page] = [page for page in pages() if page.name == "extending.md"]
    package = ROOT / "tests/third_party/poa_mixer"
    included = {block.title: block.text for block in python_blocks(page)}
    for name in ("__init__", "backbone", "data", "term", "export"):
        text = (package / f"poa_mixer/{name}.py").read_text(encoding="utf-8")
        assert included[f"poa_mixer/{name}.py"] == text


def test_what_a_block_needs_ends_with_the_block(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- needs a GPU -->\n\n    poa a\n\n    poa b \\\n        --c\n\nText.\n\n    poa c\n\n"
        '```python title="x.py"\nif True:\n    poa = 1\n```\n\n<!-- needs time -->\n```python\nx\n```\n'
    )
    assert readme_commands(page) == [
        Command("poa a", "a GPU"),
        Command("poa b --c", "a GPU"),
        Command("poa c", ""),
    ]
    assert [tuple(block) for block in python_blocks(page)] == [
        ("if True:\n    poa = 1\n", "x.py", ""),
        ("x\n", "", "time"),
    ]
