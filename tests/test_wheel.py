"""What the wheel holds, and that the recipes are found in it, in an editable install and in a zip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(file.name for file in (ROOT / "configs/ssl").glob("*.yaml"))
BUILT = (
    "poa_plugin",
    "configs",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    return folder


def build(source: Path, what: str, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(target)],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    return target / done.stdout.splitlines()[-1]


def run_from(folder: Path, *argv: str) -> str:
    """Run a command of the package that lies in a folder, from somewhere else."""
    return subprocess.run(
        [sys.executable, "-m", "poa_plugin", *argv],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_wheel_holds_the_recipes_and_the_page(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "build_wheel", tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    packed = [name for name in names if name.startswith("poa_plugin/recipes/")]
    assert packed == [f"poa_plugin/recipes/{name}" for name in RECIPES]
    modules = {
        str(file.relative_to(source))
        for file in (source / "poa_plugin").rglob("*")
        if file.is_file()
    }
    assert modules <= set(names)
    assert not [name for name in names if name.startswith(("tests", "configs", "benchmarks"))]
    listed = run_from(tmp_path / "site", "recipes")
    assert [line.split()[0] for line in listed.splitlines()[: len(RECIPES)]] == [
        name.removesuffix(".yaml") for name in RECIPES
    ]
    assert "20 networks" in run_from(tmp_path / "site", "networks", "demo_vit")


def test_the_source_archive_builds_the_same_wheel(source: Path, tmp_path: Path) -> None:
    archive = build(source, "build_sdist", tmp_path / "sdist")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build(unpacked, "build_wheel", tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as built:
        assert {f"poa_plugin/recipes/{name}" for name in RECIPES} <= set(built.namelist())


def test_an_editable_install_reads_the_recipes_where_they_are(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "build_editable", tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "recipes" in name]
    assert not (source / "poa_plugin/recipes").exists()
    assert run_from(source, "recipes", "vit") == (ROOT / "configs/ssl/vit.yaml").read_text()


def test_a_zip_of_the_repository_has_the_recipes(source: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "repository"), "zip", source)
    shutil.unpack_archive(archive, tmp_path / "unzipped")
    assert run_from(tmp_path / "unzipped", "recipes", "swin").startswith("# The published Swin")
