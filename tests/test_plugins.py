"""Plugins: found by entry point, left out with a warning where they fail, and named in what needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import poa_plugin as poa
from poa_plugin.config.load import load_config, save_config
from poa_plugin.extraction.network import write_network
from poa_plugin.plugins import load_plugins
from poa_plugin.registry import BACKBONES, DATASETS, PLUGINS, import_packages
from poa_plugin.testing import random_backbone
from tests.conftest import SMALL

BACKBONE = """
from poa_plugin.backbones import ElasticVisionTransformer, VisionTransformer
from poa_plugin.backbones.vit.plain import ViTShape
from poa_plugin.registry import BACKBONES

class Plain(VisionTransformer):
    pass

@BACKBONES.register_as("other_vit")
class OtherViT(ElasticVisionTransformer):
    @staticmethod
    def build_plain(options):
        return Plain(ViTShape(**options))
"""
OTHER = [word.replace(".vit.", ".other_vit.") for word in SMALL[1:]]

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution `NAME-dist` with a module and an entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def distribution(module: str, code: str, value: str = "") -> None:
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}_dist-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}-dist\nVersion: 1\n"
        )
        lines = f"[poa_plugin.plugins]\n{module}_name = {value or module}\n"
        (folder / "entry_points.txt").write_text(lines)

    yield distribution
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_a_plugin_is_registered_and_named_in_a_configuration(
    install: Install, tmp_path: Path
) -> None:
    install("other", BACKBONE)
    load_plugins()
    assert BACKBONES.package_of("other_vit") == "other"
    assert BACKBONES.package_of("vit") is None
    assert BACKBONES.package_of("nothing") is None
    assert load_config("vit").imports == []
    config = load_config("vit", ["student.arch=other_vit"])
    assert config.imports == ["other"]
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    listed = load_config("vit", ["student.arch=other_vit", "imports=[other]"])
    assert listed.imports == ["other"]


def test_plugins_that_a_run_does_not_use_are_not_in_its_configuration(
    install: Install, tmp_path: Path
) -> None:
    """Else no run could be read on a machine that lacks a plugin of the machine where it was trained."""
    install("other", BACKBONE)
    load_plugins()
    save_config(load_config("vit"), tmp_path / "saved.yaml")
    assert "other" not in (tmp_path / "saved.yaml").read_text()
    assert load_config(tmp_path / "saved.yaml").student.other_vit.max_width == 1024


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import missing_of_plugin", "No module named 'missing_of_plugin'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("from poa_plugin.registry import nothing", "cannot import name 'nothing'"),
    ],
)
def test_a_plugin_that_fails_is_left_out_with_a_warning(
    install: Install, capsys: pytest.CaptureFixture[str], code: str, reason: str
) -> None:
    install("broken", code)
    install("other", BACKBONE)
    load_plugins()
    said = capsys.readouterr().err
    assert said.startswith(
        "poa: warning: the plugin 'broken_name' of the distribution 'broken-dist' is left out: 'broken' "
        f"cannot be imported: {reason}"
    )
    assert said.endswith(".\n")
    assert said.count("\n") == 1
    assert PLUGINS == ["other"]
    assert "other_vit" in BACKBONES


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("None", "The backbone 'other_vit' needs a dataclass 'Options', its section of"),
        (
            "dataclass(type('O', (), {'__annotations__': {'x': complex}, 'x': 1j}))",
            "cannot be a section",
        ),
    ],
)
def test_a_plugin_with_wrong_options_stops_no_command(
    install: Install, capsys: pytest.CaptureFixture[str], options: str, reason: str
) -> None:
    code = f"from dataclasses import dataclass\n{BACKBONE}\nOtherViT.Options = {options}\n"
    install("other", code)
    install("third", BACKBONE.replace("other_vit", "third_vit"))
    load_plugins()
    assert "third_vit" in load_config("vit").student
    said = capsys.readouterr().err
    assert "the plugin 'other_name' of the distribution 'other-dist' is left out: " in said
    assert reason in said
    assert PLUGINS == ["third"]
    assert "other_vit" not in BACKBONES


def test_a_plugin_that_fails_leaves_nothing_behind(install: Install) -> None:
    install("broken", f"{BACKBONE}\nimport missing_of_plugin")
    load_plugins()
    assert "other_vit" not in BACKBONES
    load_config("vit")


def test_two_plugins_of_one_name_are_a_warning(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("other", BACKBONE)
    install("second", BACKBONE)
    load_plugins()
    said = capsys.readouterr().err
    assert "already registered" in said
    assert len(PLUGINS) == 1


def test_plugins_are_loaded_once(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("other", f"{BACKBONE}\nprint('loaded')")
    load_plugins()
    load_plugins()
    assert capsys.readouterr().out == "loaded\n"


def test_a_module_that_was_imported_before_is_of_its_plugin(install: Install) -> None:
    install("other", BACKBONE)
    __import__("other")
    load_plugins()
    assert BACKBONES.package_of("other_vit") == "other"


def test_what_is_registered_belongs_to_the_package_that_was_asked_for(
    install: Install, tmp_path: Path
) -> None:
    install("other", BACKBONE)
    (tmp_path / "around.py").write_text("import other\n")
    import_packages(["around"], "'imports'")
    assert BACKBONES.package_of("other_vit") == "around"


def test_a_script_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        __module__ = "__main__"

    DATASETS.register_as("nothing")(Nothing)
    try:
        assert DATASETS.package_of("nothing") is None
    finally:
        del DATASETS._obj_map["nothing"]


def test_an_extracted_network_names_its_package(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("other", BACKBONE)
    import_packages(["other"], "'imports'")
    backbone = random_backbone(load_config("demo_vit", ["student.arch=other_vit", *OTHER]))
    folder = tmp_path / "network"
    write_network(folder, "other_vit", backbone, backbone.space["smallest"], {})
    facts = json.loads((folder / "config.json").read_text())
    assert facts["poa"]["imports"] == ["other"]
    assert type(poa.load(folder)).__module__ == "other"

    del BACKBONES._obj_map["other_vit"], sys.modules["other"]
    assert type(poa.load(folder)).__module__ == "other"

    del BACKBONES._obj_map["other_vit"], sys.modules["other"]
    (tmp_path / "other.py").unlink()
    with pytest.raises(poa.UserError, match=r"'other' under 'imports' in '.*config\.json' cannot"):
        poa.load(folder)
    for damaged in ("other", [3], [""]):
        facts["poa"]["imports"] = damaged
        (folder / "config.json").write_text(json.dumps(facts))
        with pytest.raises(poa.UserError, match="is damaged: 'imports'"):
            poa.load(folder)


def test_the_networks_of_our_families_name_no_package(tmp_path: Path) -> None:
    backbone = random_backbone(load_config("demo_vit", SMALL))
    write_network(tmp_path / "net", "vit", backbone, backbone.space["smallest"], {})
    assert "imports" not in json.loads((tmp_path / "net/config.json").read_text())["poa"]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["completion", "bash"]])
def test_help_and_completion_load_no_plugin(
    install: Install, tmp_path: Path, words: list[str]
) -> None:
    install("slow", "open('was_loaded', 'w').close()")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[1])])
    command = [sys.executable, "-m", "poa_plugin", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert not (tmp_path / "was_loaded").exists()
