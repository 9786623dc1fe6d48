"""The public names: loaded when used, the same whatever was imported before, and as documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import poa_plugin as poa
from poa_plugin.config.load import default_config
from poa_plugin.ssl import POA
from tests.conftest import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (ROOT / "docs/python.md").read_text(encoding="utf-8")
DROP_PATH = {"vit": "student.vit.drop_path_rate=0.5", "swin": "student.swin.drop_path_rate=0.5"}


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_public_name_is_there() -> None:
    assert set(poa.__all__) <= set(dir(poa))
    for name in poa.__all__:
        assert getattr(poa, name) is not None
        if name != "__version__":
            assert getattr(poa, name).__doc__
            assert f"`{name}" in PYTHON or f".{name}" in PYTHON, f"docs/python.md lacks {name}"
    assert {"open_run", "build_backbone", "extract", "load", "load_config"} <= set(poa.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        poa.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_help_and_import_load_no_torch() -> None:
    heavy = "{'torch', 'numpy', 'omegaconf', 'matplotlib', 'PIL', 'safetensors'}"
    code = (
        "import sys, io, contextlib\n"
        "import poa_plugin\n"
        "assert poa_plugin.__version__ and dir(poa_plugin)\n"
        "assert poa_plugin.UserError\n"
        "from poa_plugin.cli import build_parser, main\n"
        "for argv in ([], ['train'], ['extract'], ['export'], ['eval', 'knn'], ['sweep'], ['pick']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        try:\n"
        "            main([*argv, '--help'])\n"
        "        except SystemExit as stopped:\n"
        "            assert stopped.code == 0\n"
        "    assert 'usage' in said.getvalue()\n"
        f"print(sorted({heavy} & set(sys.modules)))\n"
    )
    assert run(code).strip() == "[]"


def test_extract_is_the_function_whatever_was_imported() -> None:
    code = (
        "import types\n"
        "import poa_plugin.builtin, poa_plugin.extraction.network, poa_plugin.export.onnx\n"
        "import poa_plugin as poa\n"
        "from poa_plugin import extract\n"
        "assert isinstance(extract, types.FunctionType) and extract is poa.extract\n"
        "assert extract is poa_plugin.extraction.network.extract\n"
        "for name in poa.__all__:\n"
        "    assert not isinstance(getattr(poa, name), types.ModuleType), name\n"
        "print('all')\n"
    )
    assert run(code) == "all\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_built_in_evaluation_mode_and_trained_in_the_other(family: str) -> None:
    config = default_config(
        [*FAMILIES[family], *([DROP_PATH[family]] if family in DROP_PATH else [])]
    )
    backbone = poa.build_backbone(config)
    assert not any(module.training for module in backbone.modules())
    side, small = backbone.space.image_size, backbone.space["smallest"]
    images = torch.randn(4, 3, side, side)
    with torch.no_grad():
        actual = poa.extract(backbone, small)(images)["x_norm_clstoken"]
        torch.testing.assert_close(
            actual, backbone(images, small)["x_norm_clstoken"], atol=1e-5, rtol=1e-5
        )
    model = POA(config)
    assert all(module.training for module in model.student.modules())
    assert not any(module.training for module in model.teacher.modules())


def test_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_overrides: list[str]
) -> None:
    from poa_plugin.cli import main

    overrides = [*demo_overrides[1:], "optim.epochs=1", "optim.warmup_epochs=0"]
    argv = ["train", demo_overrides[0], *overrides, "train.OFFICIAL_EPOCH_LENGTH=1"]
    assert main([*argv, f"output_dir={tmp_path / 'runs/demo/poa'}"]) == 0
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", ["vit", "swin", "resnet"])
def test_the_readmes_example_holds_for_the_papers_recipes(recipe: str) -> None:
    config = poa.load_config(ROOT / f"configs/ssl/{recipe}.yaml")
    backbone = poa.build_backbone(config)
    small = backbone.space["smallest"]
    images = torch.randn(2, 3, 224, 224)
    features = backbone(images, small)["x_norm_clstoken"]
    network = poa.extract(backbone, small)
    assert torch.allclose(network(images)["x_norm_clstoken"], features, atol=1e-5)
