"""`poa export` refuses what it cannot do in a sentence, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import poa_plugin as poa
from poa_plugin.cli import main
from poa_plugin.export.exporter import export
from poa_plugin.extraction.extracted import Extracted
from poa_plugin.formats.description import TimmDescription
from poa_plugin.registry import EXPORTERS
from tests.export.conftest import Find
from tests.test_cli import fails


def test_networks_that_a_format_cannot_hold(
    network: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, format_name: str) -> str:
        argv = ["export", str(network(name)), "--format", format_name, "--to", str(tmp_path / "x")]
        return fails(capsys, *argv)

    assert "cannot be exported to timm: timm's vision transformer has no argument for ffn" in said(
        "vit without biases", "timm"
    )
    assert "its timm wrapper none either: timm's vision" in said("vit without biases", "hf")
    assert "would build another one" in said("swin", "hf")
    apart = said("swin padded", "timm")
    assert "are allowed (timm rolls a map before it pads it" in apart
    assert "away from the network's, where 0.0" in apart
    assert list(tmp_path.iterdir()) == []


def test_weights_that_another_library_reads_otherwise_are_not_kept(
    network: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = Extracted.timm.fget  # type: ignore[attr-defined]

    def disturbed(own: Extracted) -> TimmDescription:
        def adjust(model: Any) -> None:
            model.norm.bias.data += 0.01

        return TimmDescription(description(own).config, needs_adjusting=True, adjust=adjust)

    monkeypatch.setattr(Extracted, "timm", property(disturbed))
    with pytest.raises(poa.UserError, match=r"are 0\.01 away from the network's, where 0\.0"):
        export(network("vit"), "timm", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_wrong_input(network: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, full = str(network("vit")), tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep me")

    def said(source: str, *more: str, to: Path = tmp_path / "x") -> str:
        return fails(capsys, "export", source, "--to", str(to), "--format", *more)

    assert "is no extracted network: there is no config.json" in said(str(full), "timm")
    assert "Unknown export format 'onxn': did you mean 'onnx'?" in said(folder, "onxn")
    assert "already exists" in said(folder, "timm", to=full)
    assert "already exists" in said(folder, "timm", to=full / "mine.txt")
    assert (full / "mine.txt").read_text() == "keep me"
    assert "no license's identifier" in said(folder, "timm", "--license", "my own: see\nbelow")
    assert "takes no --image-size" in said(folder, "timm", "--image-size", "32")
    assert "takes no --image-size" in said(folder, "hf", "--image-size", "32")
    assert "must be positive" in said(folder, "onnx", "--image-size", "0")
    assert "'no_such_package' under --imports cannot" in said(
        folder, "timm", "--imports", "no_such_package"
    )
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    config = json.loads((old / "config.json").read_text())
    del config["poa"]["image_size"]
    (old / "config.json").write_text(json.dumps(config))
    assert "extract it again" in said(str(old), "timm")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("format_name", "package", "extra"),
    [
        ("timm", "timm", "downstream"),
        ("hf", "transformers", "export"),
        ("onnx", "onnx", "export"),
        ("onnx", "onnxruntime", "export"),
    ],
)
def test_packages_that_are_not_installed(
    network: Find,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format_name: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"needs the package {package}: pip install 'poa-plugin\[{extra}\]'"
    with pytest.raises(poa.UserError, match=said):
        export(network("vit"), format_name, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_users_package_registers_a_format(
    network: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_format.py").write_text(
        "from poa_plugin.export import Written\n"
        "from poa_plugin.registry import EXPORTERS\n"
        "from safetensors.torch import save_file\n"
        "@EXPORTERS.register_as('halves')\n"
        "def halves(task):\n"
        "    state = task.network.network.half().state_dict()\n"
        "    save_file(state, task.target / 'half.safetensors')\n"
        "    return Written('poa_plugin', 'load_file(\"FOLDER/half.safetensors\")', 'Nothing.')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["export", str(network("vit")), "--to", str(tmp_path / "x"), "--format", "halves"]
    assert main(argv) == 2
    assert main([*argv, "--imports", "my_format"]) == 0
    weights = load_file(tmp_path / "x/half.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert "half.safetensors" in (tmp_path / "x/README.md").read_text()
    EXPORTERS._obj_map.pop("halves")
