"""DINOv2's and timm's vision transformers: the intact network is theirs, at the native grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from poa_plugin.backbones.build import build_backbone
from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import write_network
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.runs.run import open_run
from poa_plugin.testing import randomize

OVERRIDES = ["train.device=cpu", "dino.head_n_prototypes=[16]", "dino.head_hidden_dim=32"]
OVERRIDES += ["dino.head_bottleneck_dim=16"]


def timm_vit(seed: int = 0, **options: Any) -> nn.Module:
    """A small vision transformer of timm's with weights that are far from their initial ones."""
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
    name = options.pop("name", "vit_tiny_patch16_224")
    model = timm.create_model(name, **{**sizes, "num_classes": 5, **options})
    return randomize(model, seed).eval()  # type: ignore[arg-type]


def import_here(tmp_path: Path, contents: Any, *overrides: str, **options: Any) -> Any:
    file = tmp_path / "file.pth"
    torch.save(contents, file)
    return import_checkpoint(file, tmp_path / "run", overrides=[*OVERRIDES, *overrides], **options)


def assert_equal_tokens(run: Path, model: nn.Module, size: int = 48, prefix: int = 1) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    backbone = open_run(run).backbone()
    with torch.no_grad():
        wanted, actual = model.forward_features(images), backbone(images)
        for key, tokens in (
            ("x_norm_clstoken", wanted[:, 0]),
            ("x_norm_patchtokens", wanted[:, prefix:]),
        ):
            torch.testing.assert_close(actual[key], tokens, atol=1e-5, rtol=0)


def dinov2_state(model: nn.Module, chunks: int = 0) -> dict[str, Tensor]:
    """timm's state dict under DINOv2's names, with a mask token."""
    state = {"cls_token": model.cls_token, "pos_embed": model.pos_embed}
    state["mask_token"] = torch.full((1, model.pos_embed.shape[-1]), 0.25)
    for key, value in model.state_dict().items():
        if key.startswith("head.") or key in state:
            continue
        parts = key.split(".")
        if chunks and parts[0] == "blocks":
            key = ".".join(["blocks", str(int(parts[1]) // 2), *parts[1:]])
        state[key] = value
    return {key: value.detach() for key, value in state.items()}


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".pth", {"init_values": 0.1}),
        (".safetensors", {"qkv_bias": False, "proj_bias": False}),
        (".pth", {"no_embed_class": True}),
    ],
)
def test_timm(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    model, file = timm_vit(**options), tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, file)
    else:
        save_file(model.state_dict(), file)
    argv = ["import", str(file), "--to", str(tmp_path / "run"), "--drop", "head"]
    assert main([*argv, "--config", *OVERRIDES]) == 0
    assert_equal_tokens(tmp_path / "run", model)
    run = open_run(tmp_path / "run")
    assert run.space.intact.name == "w128_d3"
    assert [subnet.name for subnet in run.space] == ["w64_d2", "w64_d3", "w128_d2", "w128_d3"]
    assert not run.backbone().mask_token.any()


def test_timm_says_what_it_had_to_assume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(timm_vit().state_dict(), tmp_path / "vit.pth")
    argv = ["import", str(tmp_path / "vit.pth"), "--to", str(tmp_path / "run")]
    assert main([*argv, "--config", *OVERRIDES]) == 2
    assert (
        "(--drop NAME leaves out what is of no use): 'head.bias', 'head.weight'."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--drop", "head", "--config", *OVERRIDES]) == 0
    printed = capsys.readouterr().out
    assert "Left out: 'head.weight', 'head.bias'." in printed
    assert "Not in the file, so it starts anew: 'dino_head', 'mask_token'." in printed
    assert "student.vit.head_dim=64" in printed
    assert "Everything else is the recipe 'vit'" in printed


@pytest.mark.parametrize(
    ("options", "named", "said"),
    [
        ({"reg_tokens": 4}, "reg_token", "register tokens"),
        ({"pre_norm": True}, "norm_pre.weight", "a norm before the first block"),
        ({"global_pool": "avg", "fc_norm": True}, "fc_norm.weight", "after average pooling"),
        ({"qk_norm": True}, "blocks.0.attn.q_norm.weight", "norms on queries and keys"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "dist_token", "distillation token"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_timm_networks_that_are_others(
    tmp_path: Path, options: dict[str, Any], named: str, said: str
) -> None:
    for drop in ([], ["head", named]):
        with pytest.raises(UserError, match=f"has .*{said}.* \\('{named}'\\)"):
            import_here(tmp_path, timm_vit(**options).state_dict(), drop=drop)
    assert not (tmp_path / "run").exists()


def test_timm_with_gated_mlps(tmp_path: Path) -> None:
    model = timm_vit(name="vit_giant_patch14_dinov2", img_size=28, patch_size=14)
    with pytest.raises(UserError, match=r"'blocks\.0\.mlp\.fc2\.weight' is \(128, \d+\), not"):
        import_here(tmp_path, model.state_dict())


def test_a_timm_training_checkpoint_starts_anew(tmp_path: Path) -> None:
    model = timm_vit(num_classes=0)
    optimizer = torch.optim.AdamW(model.parameters())
    contents = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}
    assert "Not used: 'optimizer', 'epoch'." in import_here(tmp_path, contents).messages
    model(torch.zeros(1, 3, 48, 48)).sum().backward()
    optimizer.step()
    contents |= {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(contents, tmp_path / "file.pth")
    imported = import_checkpoint(tmp_path / "file.pth", tmp_path / "other", overrides=OVERRIDES)
    assert any("starts at step 0" in message for message in imported.messages)
    assert imported.step == 0


@pytest.mark.parametrize(
    ("chunks", "wrap"), [(0, lambda s: s), (2, lambda s: {"teacher": s})], ids=["bare", "teacher"]
)
def test_dinov2(tmp_path: Path, chunks: int, wrap: Callable[[Any], Any]) -> None:
    model = timm_vit(init_values=0.2, img_size=42, patch_size=14)
    imported = import_here(tmp_path, wrap(dinov2_state(model, chunks)))
    assert any("of DINOv2's format" in message for message in imported.messages)
    assert_equal_tokens(tmp_path / "run", model, 42)
    run = open_run(tmp_path / "run")
    assert torch.equal(run.backbone().mask_token, torch.full((1, 128), 0.25))
    assert run.config.crops.local_crops_size % 14 == run.config.evaluation.crop_size % 14 == 0


def test_dinov2_with_its_head(tmp_path: Path) -> None:
    head = {
        "mlp.0.weight": torch.randn(24, 128),
        "mlp.0.bias": torch.randn(24),
        "mlp.2.weight": torch.randn(8, 24),
        "mlp.2.bias": torch.randn(8),
        "last_layer.parametrizations.weight.original0": torch.ones(40, 1),
        "last_layer.parametrizations.weight.original1": torch.randn(40, 8),
    }
    state = {f"backbone.{k}": v for k, v in dinov2_state(timm_vit(init_values=1.0)).items()}
    state |= {f"dino_head.{key}": value for key, value in head.items()}
    torch.save({"teacher": state}, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "run", overrides=["train.device=cpu"])
    run = open_run(tmp_path / "run")
    dino = run.config.dino
    assert list(dino.head_n_prototypes) == [40]
    assert (dino.head_nlayers, dino.head_hidden_dim, dino.head_bottleneck_dim) == (2, 24, 8)
    actual = run.heads().state_dict()
    assert torch.equal(actual["0.mlp.2.weight"], head["mlp.2.weight"])
    assert torch.equal(
        actual["0.last_layer.weight_v"], head["last_layer.parametrizations.weight.original1"]
    )


def test_dinov2_with_separate_heads_for_patches(tmp_path: Path) -> None:
    state = {f"backbone.{k}": v for k, v in dinov2_state(timm_vit(init_values=1.0)).items()}
    state["ibot_head.mlp.0.weight"] = torch.zeros(24, 128)
    with pytest.raises(UserError, match=r"unknown here .*: 'teacher.ibot_head.mlp.0.weight'"):
        import_here(tmp_path, {"teacher": state})
    imported = import_here(tmp_path, {"teacher": state}, drop=["ibot_head"])
    assert "Left out: 'teacher.ibot_head.mlp.0.weight'." in imported.messages


@pytest.mark.parametrize(
    ("key", "said"), [("register_tokens", "register tokens"), ("blocks.0.mlp.w12.weight", "SwiGLU")]
)
def test_dinov2_networks_that_are_others(tmp_path: Path, key: str, said: str) -> None:
    state = {**dinov2_state(timm_vit(init_values=1.0)), key: torch.zeros(1, 4, 128)}
    with pytest.raises(UserError, match=f"has .*{said}"):
        import_here(tmp_path, state, drop=[key])


def test_positions_are_resized_to_an_image_size_that_was_asked_for(tmp_path: Path) -> None:
    """At that size the network is the one that interpolates in its forward pass."""
    state = dinov2_state(timm_vit(init_values=0.2))
    import_here(tmp_path, state)
    torch.save(state, tmp_path / "file.pth")
    overrides = [*OVERRIDES, "crops.global_crops_size=80"]
    imported = import_checkpoint(tmp_path / "file.pth", tmp_path / "other", overrides=overrides)
    assert any(
        "image size: 'teacher.backbone.pos_embed'" in message for message in imported.messages
    )
    images = torch.randn(2, 3, 80, 80)
    native, resized = (open_run(tmp_path / name).backbone() for name in ("run", "other"))
    assert resized.pos_embed.shape[1] == 101
    with torch.no_grad():
        actual, wanted = (net(images)["x_norm_patchtokens"] for net in (resized, native))
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


def test_half_precision(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in dinov2_state(timm_vit(init_values=1.0)).items()}
    import_here(tmp_path, state)
    assert open_run(tmp_path / "run").backbone().pos_embed.dtype == torch.float32


def test_an_extracted_network_is_a_timm_checkpoint(
    small_config: Callable[..., Any], tmp_path: Path
) -> None:
    """Its own `config.json` tells the head dimension, 8, which the weights do not."""
    elastic = randomize(build_backbone(small_config())).eval()
    subnet = elastic.space["w32_d3"]
    folder = write_network(tmp_path / "net", "vit", elastic, subnet, {})
    import_checkpoint(folder / "model.safetensors", tmp_path / "run", overrides=OVERRIDES)
    images = torch.randn(2, 3, 48, 48)
    backbone = open_run(tmp_path / "run").backbone()
    with torch.no_grad():
        for key in ("x_norm_clstoken", "x_norm_patchtokens"):
            actual, wanted = backbone(images)[key], elastic(images, subnet)[key]
            torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


def test_reading_without_importing(tmp_path: Path) -> None:
    model = timm_vit()
    torch.save(model.state_dict(), tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert (checkpoint.format.name, checkpoint.family.name) == ("timm", "vit")
    tensors = checkpoint.tensors("teacher.backbone.")
    assert torch.equal(tensors["norm.weight"], model.norm.weight)
