"""The order of the house: who may import whom, and that there is no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "poa_plugin"

GROUND = {
    "crops",
    "device",
    "errors",
    "files",
    "folders",
    "memory",
    "plugins",
    "randomness",
    "ranks",
    "registry",
    "sizes",
    "version",
    "weights",
}
"""Imports nothing of the package but one another."""

SCHEMA = {
    "config",
    "config.fields",
    "config.images",
    "config.objective",
    "config.schema",
    "config.training",
}
"""Of `config`, what others build on: dataclasses and ranges, without the loading of files."""

FLOORS: list[set[str]] = [
    GROUND,
    {"failures", "targets"},
    {"schema"},
    {"elastic"},
    {"backbones"},
    {"formats", "ssl", "data", "loggers"},
    {"builtin"},
    {"load"},
    {"train"},
    {"runs"},
    {"interop", "report", "extraction"},
    {"evaluate", "export"},
    {"pick", "plan", "step_time"},
    {"testing"},
    {"arguments", "children", "console", "examples", "sources"},
    {"argument_groups", "completion", "demo"},
    {"launch"},
    {"commands"},
    {"cli"},
    {"__main__", "slurm_rank"},
]
"""From the ground up: a module imports what stands below it, or beside it within its own package."""


def floors() -> dict[str, int]:
    return {name: i for i, floor in enumerate(FLOORS) for name in floor}


def modules() -> dict[str, Path]:
    """Return the files of the package by their dotted names within it; the root is left out."""
    actual = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            actual[name] = file
    return actual


def room(module: str) -> str:
    """Return the part of the house that a module belongs to."""
    first = module.split(".")[0]
    if first == "config":
        return "schema" if module in SCHEMA else "load"
    return first


def imports(tree: ast.Module, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a module imports when it runs, in functions, too."""
    for_types = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}".removeprefix("poa_plugin.") in known
                else node.module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "poa_plugin")


def graph() -> dict[str, set[str]]:
    known = modules()
    return {
        module: {
            name.removeprefix("poa_plugin").removeprefix(".")
            for name in imports(ast.parse(file.read_text(encoding="utf-8")), known)
        }
        - {module}
        for module, file in known.items()
    }


def test_every_module_has_its_floor() -> None:
    rooms = {room(module) for module in modules()}
    assert rooms == set(floors())
    assert sum(map(len, FLOORS)) == len(floors())


def test_imports_lead_down_and_nothing_imports_the_root() -> None:
    level, wrong = floors(), []
    for module, imported in graph().items():
        for name in imported:
            above, below = room(module), room(name) if name else ""
            if above == below or (above in GROUND and below in GROUND):
                continue
            if not name or level[below] >= level[above]:
                wrong.append(f"{module} imports {name or 'poa_plugin'}")
    assert wrong == []


def test_there_is_no_circle() -> None:
    # Raises a CycleError, which names the modules. A package's __init__ stands for what it exports.
    order = list(TopologicalSorter(graph()).static_order())
    assert {"cli", "elastic.slicing", "train.loop"} <= set(order)


def test_elastic_and_backbones_know_no_distributed_code() -> None:
    for module, file in modules().items():
        if room(module) in ("schema", "elastic", "backbones"):
            assert "torch.distributed" not in file.read_text(encoding="utf-8"), module


def test_the_order_is_watched() -> None:
    tree = ast.parse(
        "from poa_plugin.train import loop\n"
        "import poa_plugin.elastic.slicing\n"
        "def f():\n    from poa_plugin import extract\n"
        "if TYPE_CHECKING:\n    from poa_plugin.cli import main\n"
    )
    actual = set(imports(tree, modules()))
    assert actual == {"poa_plugin.train.loop", "poa_plugin.elastic.slicing", "poa_plugin"}
