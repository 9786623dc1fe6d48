"""`poa export`: each format is loaded as a user would, and gives the network's features."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import poa_plugin as poa
from poa_plugin.backbones.vit.plain import interpolate_position
from poa_plugin.backbones.vit.position_graph import positions_of_any_grid
from poa_plugin.cli import main
from poa_plugin.export.exporter import export
from tests.export.conftest import Find
from tests.test_cli import fails


def features(folder: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = poa.load(folder)(images)
    return found["x_norm_clstoken"], found["x_norm_patchtokens"]


def native(folder: Path) -> int:
    side: int = json.loads((folder / "config.json").read_text())["poa"]["image_size"]
    return side


@pytest.mark.parametrize("name", ["vit", "vit without layer scale", "resnet", "swin alternating"])
def test_timm_loads_the_folder(network: Find, exported: Find, name: str) -> None:
    import timm

    folder = exported(name, "timm")
    assert {f.name for f in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    images = torch.randn(2, 3, *[native(network(name))] * 2)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        found = loaded(images)
    torch.testing.assert_close(found, features(network(name), images)[0], atol=1e-5, rtol=1e-5)
    assert "local-dir:" in (folder / "README.md").read_text()


def test_what_timm_has_no_argument_for_is_said(
    network: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm

    argv = ["export", str(network("swin")), "--format", "timm", "--to", str(tmp_path / "x")]
    assert main(argv) == 0
    assert "built by poa_plugin.to_timm" in capsys.readouterr().out
    assert "poa_plugin.to_timm(" in (tmp_path / "x/README.md").read_text()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = poa.to_timm(tmp_path / "x")(images)
    torch.testing.assert_close(found, features(network("swin"), images)[0], atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="build_it_with_poa_plugin_to_timm"):
        timm.create_model(f"local-dir:{tmp_path / 'x'}")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit", [(48, 48), (32, 32), (24, 56), (96, 48), (8, 16)]),
        ("swin padded", [(64, 64), (40, 40), (52, 84)]),
        ("resnet", [(64, 64), (41, 55)]),
    ],
)
def test_one_onnx_graph_takes_any_number_of_images_of_any_size(
    network: Find, exported: Find, name: str, sizes: list[tuple[int, int]]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported(name, "onnx") / "model.onnx")
    for batch, size in [(5, sizes[0]), *((2, size) for size in sizes), (1, sizes[1])]:
        images = torch.randn(batch, 3, *size)
        found = session.run(["features", "patch_tokens"], {"images": images.numpy()})
        for own, wanted in zip(found, features(network(name), images), strict=True):
            torch.testing.assert_close(torch.from_numpy(own), wanted, atol=1e-4, rtol=1e-5)


def test_an_onnx_file_says_whose_it_is(network: Find, exported: Find) -> None:
    import onnx

    file = exported("vit", "onnx") / "model.onnx"
    model = onnx.load(file)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    facts = json.loads((network("vit") / "config.json").read_text())["poa"]
    assert model.producer_name == "poa_plugin"
    assert model.opset_import[0].version == 20
    assert notes["poa.network"] == facts["network"]
    assert json.loads(notes["poa.options"]) == facts["options"]
    assert notes["poa.branch"] == "teacher"
    assert str(Path(poa.__file__).parent).encode() not in file.read_bytes()
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "height", "width"]


def test_an_onnx_file_for_one_image_size(
    network: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    import onnxruntime

    target = tmp_path / "x"
    argv = ["export", str(network("vit")), "--format", "onnx", "--to", str(target)]
    assert "do not divide into patches of 8" in fails(capsys, *argv, "--image-size", "33")
    assert main([*argv, "--image-size", "32"]) == 0
    assert "1 and 3 images of 32 x 32 pixels" in capsys.readouterr().out
    assert "images of 32 x 32 pixels, any number" in (target / "README.md").read_text()
    shape = onnx.load(target / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape][1:] == [3, 32, 32]
    images = torch.randn(4, 3, 32, 32)
    session = onnxruntime.InferenceSession(target / "model.onnx")
    [found, _] = session.run(None, {"images": images.numpy()})
    wanted = features(network("vit"), images)[0]
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=0)


def test_a_graph_that_holds_for_one_size_only_is_refused(
    network: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poa_plugin.backbones.vit import plain as vit

    def fixed(pos_embed: torch.Tensor, grid: Any) -> torch.Tensor:
        return interpolate_position(pos_embed, tuple(int(side) for side in grid))

    monkeypatch.setattr(vit, "interpolate_position", fixed)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: False)
    with pytest.raises(poa.UserError, match=r"images of all sizes.*such as --image-size 48"):
        export(network("vit"), "onnx", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("grid", [(6, 6), (6, 7), (3, 9), (1, 1), (20, 31)], ids=str)
def test_the_graph_of_positions_is_the_interpolation(grid: tuple[int, int]) -> None:
    table = torch.randn(1, 37, 5)
    found, wanted = positions_of_any_grid(table, grid), interpolate_position(table, grid)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert grid != (6, 6) or torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit", "Dinov2Model"),
        ("vit without layer scale", "TimmWrapperModel"),
        ("resnet", "TimmWrapperModel"),
        ("swin alternating", "TimmWrapperModel"),
    ],
)
def test_transformers_loads_the_folder_offline(
    network: Find, exported: Find, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    def refuse(*address: object) -> None:
        raise OSError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder, side = exported(name, "hf"), native(network(name))
    model = AutoModel.from_pretrained(folder).eval()
    assert type(model).__name__ == kind
    assert model.config.poa["network"]
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = np.full((70, 90, 3), 128, dtype=np.uint8)
    inputs = processor([Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    assert inputs.shape == (1, 3, side, side)
    gray = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(inputs[0, :, 3, 5], gray, atol=1e-5, rtol=0)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        found = model(pixel_values=images)
    cls_token, patch_tokens = features(network(name), images)
    torch.testing.assert_close(found.pooler_output, cls_token, atol=1e-4, rtol=1e-5)
    if name.startswith("vit"):
        tokens = found.last_hidden_state[:, 1:]
        torch.testing.assert_close(tokens, patch_tokens, atol=1e-4, rtol=0)


def test_dinov2_names_are_those_that_transformers_writes(exported: Find, tmp_path: Path) -> None:
    from transformers import Dinov2Model

    folder = exported("vit", "hf")
    Dinov2Model.from_pretrained(folder).save_pretrained(tmp_path)
    own, theirs = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


def test_the_card_tells_what_is_recorded(
    network: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm

    folder = tmp_path / "from"
    shutil.copytree(network("vit"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["poa"] |= {
        "run": {"name": "spring", "meta_arch": "poa", "steps": 7, "seed": 5},
        "data": {
            "dataset": "image_folder",
            "name": "a|b",
            "evaluation_resize_size": 50,
            "evaluation_crop_size": 48,
        },
        "results": [
            {"k": 20, "top1": 71.25, "by": "poa eval knn"},
            {
                "k": 200,
                "top1": 70.0,
                "by": "poa sweep",
                "n_test": 1600,
                "standard_error": 1.146,
                "best": "w96_d6",
                "best_top1": 71.0,
                "distinguishable_from_best": False,
            },
        ],
    }
    (folder / "config.json").write_text(json.dumps(config))
    argv = ["export", str(folder), "--format", "timm", "--to", str(tmp_path / "to")]
    assert main([*argv, "--license", "apache-2.0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "gives the network's features at 48 pixels" in printed[0]
    card = (tmp_path / "to/README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "\nlicense: apache-2.0\n" in card
    for line in (
        f"| parameters | {config['poa']['params']:,} |",
        f"| FLOPs | {config['poa']['flops']:,} multiply-adds of one 48 x 48 image |",
        "| run | `spring` |",
        "| step | 3 |",
        "| data set | `image_folder` |",
        "| named | `a b` |",
        "| 20 | 71.2 | poa eval knn |",
        "| 200 | 70.0 ±1.1 | poa sweep |",
        "± is one standard error on 1,600 test images.",
        "* k = 200: it is not distinguishable from `w96_d6`, the most accurate network of the run (71.0).",
        "## License\n\napache-2.0\n",
    ):
        assert line in card
    assert "Shorter side to 50 pixels (bicubic, antialiased), center crop of 48 x 48" in card
    loaded = timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True)
    for model in (loaded, poa.to_timm(tmp_path / "to")):
        preprocessing = timm.data.resolve_model_data_config(model)
        assert timm.data.create_transform(**preprocessing).transforms[0].size == 50
    assert "resizes positions in another way" in card


def test_the_card_says_on_which_images(network: Find, tmp_path: Path) -> None:
    folder = shutil.copytree(network("vit"), tmp_path / "from")
    config = json.loads((folder / "config.json").read_text())
    config["poa"] |= {
        "data": {"evaluation_resize_size": 50, "evaluation_crop_size": 48},
        "results": [
            {"k": 20, "top1": 71.25, "by": "poa eval knn", "data": "pets|cats, 48 of 50 pixels"},
            {"k": 20, "top1": 70.0, "by": "poa sweep"},
        ],
    }
    (folder / "config.json").write_text(json.dumps(config))
    export(folder, "timm", tmp_path / "to")
    card = (tmp_path / "to/README.md").read_text()
    assert "| 20 | 71.2 | poa eval knn | pets cats, 48 of 50 pixels |\n" in card
    assert "| 20 | 70.0 | poa sweep | not recorded |\n" in card
    assert "on the test images of the data that is named:" in card
    assert "the data set above" not in card


def test_the_card_says_what_is_not_known(network: Find, tmp_path: Path) -> None:
    export(network("vit without layer scale"), "timm", tmp_path / "x")
    card = (tmp_path / "x/README.md").read_text()
    assert "license:" not in card
    assert "## License\n\nNot stated" in card
    assert "## Numbers\n\nNone are recorded." in card
    assert "## Data\n\nNot recorded." in card
