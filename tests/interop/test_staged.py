"""Swin and ResNet of timm, of the original Swin's code, of our own extraction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from poa_plugin.backbones.build import build_backbone
from poa_plugin.cli import main
from poa_plugin.config.load import default_config
from poa_plugin.extraction.network import write_network
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.interop.fit import fit_config
from poa_plugin.runs.run import open_run
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES
from tests.interop.published_files import module_order
from tests.interop.test_other_formats import OVERRIDES, import_here
from tests.interop.test_published import PUBLISHED

SWIN = ["student.swin.ibot_scale_factor=1"]
RESNET = ["student.resnet.ibot_scale_factor=1"]


def timm_swin(**options: Any) -> nn.Module:
    """A small Swin of timm's, the last map of which is a single window at 96 pixels."""
    sizes = {"img_size": 96, "window_size": 3, "embed_dim": 16, "depths": (1, 2, 4, 2)}
    sizes |= {"num_heads": (2, 4, 8, 16), "num_classes": 5}
    name = options.pop("name", "swin_tiny_patch4_window7_224")
    return randomize(timm.create_model(name, **{**sizes, **options})).eval()  # type: ignore[arg-type]


def timm_resnet(**options: Any) -> nn.Module:
    """A small ResNet of timm's with group norms."""
    sizes = {"layers": [1, 2, 3, 1], "channels": (32, 64, 128, 256), "num_classes": 5}
    name = options.pop("name", "resnet50_gn")
    return randomize(timm.create_model(name, **{**sizes, **options})).eval()  # type: ignore[arg-type]


def original(model: nn.Module) -> dict[str, Tensor]:
    """timm's Swin as the original code has it: mergings with the stage before, and tables."""
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(
            r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )
        state[key.replace("head.fc.", "head.")] = value
    for name, module in model.named_modules():
        if hasattr(module, "relative_position_index"):
            state[f"{name}.relative_position_index"] = module.relative_position_index
        if getattr(module, "attn_mask", None) is not None:
            state[f"{name}.attn_mask"] = module.attn_mask
    return state


def assert_equal_maps(run: Path, model: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, actual = model.forward_features(images), open_run(run).backbone()(images)
    if wanted.shape[-1] == wanted.shape[-2]:
        wanted = wanted.permute(0, 2, 3, 1)
    scale = max(1.0, float(wanted.abs().max()))
    for key, tokens in (
        ("x_norm_clstoken", wanted.mean((1, 2))),
        ("x_norm_patchtokens", wanted.flatten(1, 2)),
    ):
        torch.testing.assert_close(actual[key], tokens, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("size", [96, 192])
def test_timm_swin(tmp_path: Path, size: int) -> None:
    """timm leaves a stage unshifted whose map is a single window; at 192 pixels no stage is one."""
    model = timm_swin(img_size=size, qkv_bias=size == 96)
    save_file(model.state_dict(), tmp_path / "swin.safetensors")
    argv = ["import", str(tmp_path / "swin.safetensors"), "--to", str(tmp_path / "run")]
    overrides = [*OVERRIDES, *SWIN, *([] if size == 96 else [f"crops.global_crops_size={size}"])]
    assert main([*argv, "--drop", "head", "--config", *overrides]) == 0
    assert_equal_maps(tmp_path / "run", model, size)
    run = open_run(tmp_path / "run")
    options = run.config.student.swin
    assert run.config.crops.global_crops_size == size
    assert list(options.shifted_stages) == [0, 1, 2, 3][: 3 if size == 96 else 4]
    assert (options.head_dim, options.window_size, options.patch_norm) == (8, 3, "active")
    assert options.qkv_bias == (size == 96)
    assert {subnet.name for subnet in run.space} == {"w16_d2", "w16_d3", "w16_d4"}
    assert not run.backbone().mask_token.any()


def test_the_original_swin(tmp_path: Path) -> None:
    model = timm_swin()
    state = original(model)
    assert sum(key.endswith("attn_mask") for key in state) == 3
    imported = import_here(tmp_path, {"model": state}, *SWIN, drop=["head"])
    assert any("the original Swin's format" in message for message in imported.messages)
    assert any("recomputed here, 12 tables" in message for message in imported.messages)
    assert_equal_maps(tmp_path / "run", model, 96)


def test_masks_tell_what_is_shifted(tmp_path: Path) -> None:
    """A file for larger images has masks in the last stage too."""
    torch.save(original(timm_swin(img_size=192)), tmp_path / "file.pth")
    metadata = read_checkpoint(tmp_path / "file.pth").metadata
    assert metadata == {
        "student.swin.shifted_stages": [1, 2, 3]
    }  # a single block is not shifted anyway


def test_timm_resnet(tmp_path: Path) -> None:
    model = timm_resnet()
    import_here(tmp_path, model.state_dict(), *RESNET, drop=["fc"])
    assert_equal_maps(tmp_path / "run", model, 64)
    run = open_run(tmp_path / "run")
    options = run.config.student.resnet
    assert (options.stem_width, options.max_width, options.out_width, options.groups) == (
        64,
        32,
        128,
        32,
    )
    assert list(options.min_depths) == [1, 1, 1, 1]
    assert list(options.max_depths) == [1, 2, 3, 1]
    assert not options.decay_shortcut_norm
    assert run.config.crops.global_crops_size == 224


EXTRACTED = [
    ("swin", "w16_d2", []),
    ("swin", "w16_d4", ["student.swin.patch_norm=full", "student.swin.shifted_stages=[1]"]),
    ("resnet", "w12_d1-1-3-1", []),
]


@pytest.mark.parametrize(("family", "name", "overrides"), EXTRACTED, ids=str)
def test_extracted_networks_are_timm_checkpoints(
    tmp_path: Path, family: str, name: str, overrides: list[str]
) -> None:
    """`config.json` tells what weights do not: shifts, groups, image size, upsampling."""
    config = default_config([*FAMILIES[family], *overrides])
    elastic = randomize(build_backbone(config)).eval()
    subnet = elastic.space[name]
    folder = write_network(tmp_path / "net", family, elastic, subnet, {})
    import_checkpoint(folder / "model.safetensors", tmp_path / "run", overrides=OVERRIDES)
    assert open_run(tmp_path / "run").config.crops.global_crops_size == 64
    images, backbone = torch.randn(2, 3, 80, 80), open_run(tmp_path / "run").backbone()
    with torch.no_grad():
        for key in ("x_norm_clstoken", "x_norm_patchtokens"):
            actual, wanted = backbone(images)[key], elastic(images, subnet)[key]
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(actual, wanted, atol=1e-5 * scale, rtol=0)


def save(tmp_path: Path, contents: Any) -> Path:
    torch.save(contents, tmp_path / "file.pth")
    return tmp_path / "file.pth"


@pytest.mark.parametrize("family", ["swin", "resnet"])
def test_the_papers_networks_get_the_papers_ranges(tmp_path: Path, family: str) -> None:
    """The defaults of each family's section, in the published format."""
    default = default_config([f"student.arch={family}"])
    with torch.device("meta"):
        state = build_backbone(default).state_dict()
    empty = {f"backbone.{key}": torch.zeros(1).expand(x.shape) for key, x in state.items()}
    config, _ = fit_config(
        read_checkpoint(save(tmp_path, module_order(empty, family))), None, ["optim.epochs=1"]
    )
    overrides = [f"student.arch={family}", "crops.blur=published"]
    published = default_config([*overrides, *PUBLISHED[family]])
    assert config.student == published.student
    assert config.crops == published.crops


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("swin_tiny_patch4_window7_224", ["swin.max_depths=[2,2,6,2]", "swin.max_width=96"]),
        ("swin_large_patch4_window12_384", ["swin.max_width=192", "swin.min_width=160"]),
        ("resnet50_gn", ["resnet.max_depths=[3,4,6,3]", "resnet.min_depths=[3,2,1,3]"]),
    ],
)
def test_timms_own_networks(tmp_path: Path, name: str, overrides: list[str]) -> None:
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=0).state_dict()
    empty = {key: torch.zeros(1).expand(x.shape) for key, x in shapes.items()}
    config, _ = fit_config(read_checkpoint(save(tmp_path, empty)), None, [])
    size = 384 if name.endswith("384") else 224
    assert config.crops.global_crops_size == size
    overrides += ["swin.head_dim=32", "swin.shifted_stages=[0,1,2]"] if "swin" in name else []
    overrides += [f"swin.window_size={size // 32}"] if "swin" in name else []
    wanted = default_config(
        [f"student.arch={config.student.arch}", *(f"student.{override}" for override in overrides)]
    )
    for override in overrides:
        family, key = override.partition("=")[0].split(".")
        assert config.student[family][key] == wanted.student[family][key], override
