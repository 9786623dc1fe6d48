"""The README's commands are commands, its files exist, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from poa_plugin.cli import build_parser
from poa_plugin.config.recipes import recipe_summary
from poa_plugin.sources import recipe_file
from tests.readme.commands import ROOT, readme_commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [command for command, _ in readme_commands() if command.startswith("poa ")]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    argv = shlex.split(command, comments=True)[1:]
    arguments = build_parser().parse_args(argv)
    if isinstance(getattr(arguments, "config", None), str):
        assert recipe_file(arguments.config, "poa").is_file()


def test_most_commands_are_run_as_they_are_written() -> None:
    """`python -m tests.readme` does that; what needs other data or machines is marked, and so counted here."""
    needs = [needs for command, needs in readme_commands() if command.startswith("poa ")]
    assert needs.count("") >= 15


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"`((?:configs|docs)/[\w./]+)`", README)
    named += re.findall(r"\]\((docs/[\w./]+)\)", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_line_of_the_fault_table_is_a_test() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    rows = re.findall(r"^\| (?!fault|---).*\| (.*) \|$", page, re.MULTILINE)
    assert len(rows) >= 20
    for cell in rows:
        assert cell == "the same" or "`" in cell, cell
        for name in re.findall(r"(?<=[`:])(test_\w+)(?=[\[`])", cell):
            assert f"def {name}(" in code, name
        for path in re.findall(r"`(tests/[\w/]+\.py)", cell):
            assert (ROOT / path).is_file(), path
        for kind in re.findall(r"\[(\w+)\]", cell):
            assert f"def {kind}(" in code, kind


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\S+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs/ssl").glob("*.yaml")), ids=str)
def test_every_recipe_is_a_valid_configuration(recipe: Path) -> None:
    import torch

    from poa_plugin import build_backbone, load_config

    config = load_config(recipe)
    with torch.device("meta"):
        space = build_backbone(config).space
    count = re.search(r"(\d+) sub-networks", recipe_summary(recipe.stem))
    assert count is None or len(space) == int(count[1])
