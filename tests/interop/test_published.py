"""Files of the published code: outputs equal the golden numbers, and training goes on bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import poa_plugin as poa
from poa_plugin.cli import main
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop import import_checkpoint, read_checkpoint
from poa_plugin.runs.run import open_run
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.train import checkpoint
from poa_plugin.train.loop import train
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from tests.conftest import FAMILIES
from tests.interop.published_files import (
    module_order,
    optimizer_state,
    published_key,
    published_order,
)
from tests.parity.backbones import TOLERANCE, output_cases
from tests.parity.golden import Golden, largest
from tests.parity.published import ALWAYS, network, rename
from tests.parity.published import backbone_key as our_key
from tests.parity.published import student_key as our_student_key

SIZES = ["train.device=cpu", "dino.head_n_prototypes=[16]", "dino.head_hidden_dim=32"]
SIZES += ["dino.head_bottleneck_dim=16"]
OVERRIDES = {
    "vit": [*SIZES, "student.vit.head_dim=16"],
    "swin": [*SIZES, "student.swin.min_width=8", "crops.global_crops_size=64"],
    "resnet": [
        *SIZES,
        "student.resnet.min_depths=[1,1,2,1]",
        "student.resnet.groups=4",
        "crops.global_crops_size=64",
    ],
}
"""What the tensors of the golden networks do not tell."""
TINY = {
    "vit": ["student.vit.head_dim=8"],
    "swin": ["student.swin.min_width=4", "crops.global_crops_size=64"],
    "resnet": ["student.resnet.groups=2", "crops.global_crops_size=64"],
}
"""The same of the networks of the golden steps."""
STEPS = {"vit": "vit_small_ibot", "swin": "swin_ibot", "resnet": "resnet_ibot"}
PUBLISHED = {
    family: [f"student.{family}.{override}" for override in overrides]
    for family, overrides in ALWAYS.items()
}

families = pytest.mark.parametrize("family", FAMILIES)


def golden_backbone(golden: Golden, family: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The golden meta data, and the golden weights under our names."""
    meta = golden.meta(family)
    assert meta is not None
    return meta, rename(golden.arrays(meta["files"]["state"]), "", our_key(family))


def layout(name: str, published: dict[str, Tensor]) -> dict[str, Any]:
    """Published weights in one of the layouts in which the published code leaves files."""
    chunked = {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", key): value
        for key, value in published.items()
    }
    prefixed = {f"backbone.{key}": value for key, value in published.items()}
    return {
        "bare": published,
        "chunked": chunked,
        "prefix": prefixed,
        "teacher": {"teacher": prefixed},
        "teacher chunked": {"teacher": {f"backbone.{k}": v for k, v in chunked.items()}},
        "model": {"model": published, "iteration": 12, "epoch": 3},
        "student and teacher": {
            "model": {f"{b}.{k}": v for b in ("student", "teacher") for k, v in prefixed.items()},
            "iteration": 7,
        },
        "wrapped": {"model": {f"teacher.module._fsdp_wrapped_module.{k}": v for k, v in prefixed.items()}},
    }[name]  # fmt: skip


LAYOUTS = [
    ("vit", "chunked"),
    ("vit", "teacher chunked"),
    ("vit", "model"),
    ("vit", "wrapped"),
    ("vit", "student and teacher"),
    ("swin", "bare"),
    ("swin", "teacher"),
    ("swin", "student and teacher"),
    ("resnet", "prefix"),
    ("resnet", "student and teacher"),
]


@families
def test_the_names_made_here_are_the_published_ones(golden_folder: Path, family: str) -> None:
    golden = Golden(golden_folder)
    meta, state = golden_backbone(golden, family)
    published = golden.arrays(meta["files"]["state"])
    made = module_order({f"backbone.{key}": value for key, value in state.items()}, family)
    assert made.keys() == {f"backbone.{key}" for key in published}
    assert all(torch.equal(made[f"backbone.{key}"], value) for key, value in published.items())
    init = golden.arrays([f"{family}_ssl_init.npz"])
    ours = rename(init, "student/", our_student_key(family))
    names = [f"student/{key}" for key in module_order(ours, family)]
    assert names == [k for k in init if "student/" in k]


@pytest.mark.parametrize(("family", "name"), LAYOUTS)
def test_every_layout_holds_the_same_weights(
    golden_folder: Path, tmp_path: Path, family: str, name: str
) -> None:
    golden = Golden(golden_folder)
    meta, state = golden_backbone(golden, family)
    torch.save(layout(name, golden.arrays(meta["files"]["state"])), tmp_path / "file.pth")
    checkpoint = read_checkpoint(tmp_path / "file.pth")
    assert checkpoint.branches == (
        ["student", "teacher"] if name == "student and teacher" else ["teacher"]
    )
    for branch in checkpoint.branches:
        tensors = checkpoint.tensors(f"{branch}.backbone.")
        assert tensors.keys() == state.keys()
        assert all(torch.equal(tensors[key], value) for key, value in state.items())


COMPARED = {"vit": 16 * 7 + 2 * 4, "swin": 15 * 9, "resnet": 18 * 10}
"""Comparisons: ViT's linear features exist from a depth of 6 on."""


@families
def test_outputs_of_all_networks_equal_the_golden_ones(
    golden_folder: Path, tmp_path: Path, family: str
) -> None:
    golden = Golden(golden_folder)
    meta, _ = golden_backbone(golden, family)
    published = golden.arrays(meta["files"]["state"])
    torch.save(layout("teacher chunked", published), tmp_path / "teacher_checkpoint.pth")
    argv = ["import", str(tmp_path / "teacher_checkpoint.pth"), "--to", str(tmp_path / "run")]
    assert main([*argv, "--config", *OVERRIDES[family]]) == 0
    run = open_run(tmp_path / "run")
    student = run.backbone("student").state_dict()
    teacher = run.backbone("teacher").state_dict()
    assert all(torch.equal(student[key], value) for key, value in teacher.items())
    assert [subnet.name for subnet in run.space] == [net["name"] for net in meta["networks"]]
    backbone = run.backbone()
    inputs, outputs = (golden.arrays(meta["files"][key]) for key in ("inputs", "outputs"))
    tolerance = max(TOLERANCE, 2 * meta.get("fp32_vs_fp64_max_abs", 0.0))
    compared = 0
    for entry in meta["networks"]:
        subnet = network(entry["width"], entry["depth"])
        with torch.no_grad():
            for case in output_cases(family, backbone, subnet, inputs, outputs, tolerance):
                assert not case.failed, case.line
                assert not case.absent, case.line
                compared += 1
    assert compared == COMPARED[family]


@families
def test_extracted_networks_equal_the_golden_ones(
    golden_folder: Path, tmp_path: Path, family: str
) -> None:
    """Errors of a network without a norm at its end are as large as its outputs."""
    golden = Golden(golden_folder)
    meta, _ = golden_backbone(golden, family)
    published = golden.arrays(meta["files"]["state"])
    torch.save(layout("chunked", published), tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "run", overrides=OVERRIDES[family])
    argv = ["extract", str(tmp_path / "run"), "--network", "all", "--to", str(tmp_path / "nets")]
    assert main(argv) == 0
    inputs, outputs = (golden.arrays(meta["files"][key]) for key in ("inputs", "outputs"))
    tolerance = max(TOLERANCE, 2 * meta.get("fp32_vs_fp64_max_abs", 0.0))
    for entry in meta["networks"]:
        plain = poa.load(tmp_path / "nets" / entry["name"])
        for view in ("global", "local"):
            with torch.no_grad():
                features = plain(inputs[view])
            for token, key in (("cls", "x_norm_clstoken"), ("patch", "x_norm_patchtokens")):
                wanted = outputs[f"{entry['name']}/{view}/{token}"]
                scale = max(1.0, float(wanted.abs().max())) if family == "resnet" else 1.0
                assert largest(features[key], wanted) < scale * tolerance


@families
def test_a_training_checkpoint_of_the_golden_step(
    golden_folder: Path, tmp_path: Path, family: str
) -> None:
    """Groups and order as in the golden meta file: every moment reaches its parameter."""
    golden = Golden(golden_folder)
    meta = golden.meta("head_loss")
    assert meta is not None
    case = next(case for case in meta["total"] if case["name"] == STEPS[family])
    init = golden.arrays(case["files"]["init"])
    model = {key.replace("/", ".", 1): value for key, value in init.items()}
    names = [key.removeprefix("student/") for key in init if key.startswith("student/")]
    names = [name for name in names if name in case["param_groups"]]
    settings = {
        key: (group["lr_multiplier"], group["wd_multiplier"], group["is_last_layer"])
        for key, group in case["param_groups"].items()
    }
    moments = {
        name: {
            "step": torch.tensor(5.0),
            "exp_avg": torch.randn_like(init[f"student/{name}"]) + i,
            "exp_avg_sq": torch.rand_like(init[f"student/{name}"]) + i,
        }
        for i, name in enumerate(names)
    }
    contents = {
        "model": {**model, **{f"dino_loss.center_{h}": torch.zeros(1, n) for h, n in enumerate((24, 40, 56))}},
        "optimizer": optimizer_state(names, settings, moments),
        "iteration": 41,
    }  # fmt: skip
    torch.save(contents, tmp_path / "model_0000041.rank_0.pth")
    overrides = [
        "train.device=cpu",
        *TINY[family],
        f"optim.layerwise_decay={case['layerwise_decay']}",
    ]
    overrides.append(f"optim.patch_embed_lr_mult={case['patch_embed_lr_mult']}")
    imported = import_checkpoint(
        tmp_path / "model_0000041.rank_0.pth", tmp_path / "run", overrides=overrides
    )
    assert imported.step == 42
    assert any("'dino_loss.center_0'" in message for message in imported.messages)
    folder = tmp_path / "run/ckpt/42"
    actual = load_file(folder / checkpoint.OPTIMIZER)
    assert len(actual) == 3 * len(names)
    for name, wanted in moments.items():
        ours = our_student_key(family)(name)
        for key, value in wanted.items():
            assert torch.equal(published_order(ours, actual[f"{ours}/{key}"]), value), name
    assert json.loads((folder / checkpoint.STATE).read_text())["step"] == 42
    heads = open_run(tmp_path / "run").heads("student").state_dict()
    for key, value in rename(init, "student/dino_head.", lambda k: k).items():
        assert torch.equal(
            heads[our_student_key(family)(f"dino_head.{key}").partition(".")[2]], value
        )
    with pytest.raises(UserError, match=r"lr_multiplier .* where .*--drop optimizer"):
        wrong = [*overrides, "optim.layerwise_decay=0.7"]
        import_checkpoint(
            tmp_path / "model_0000041.rank_0.pth", tmp_path / "other", overrides=wrong
        )


@pytest.mark.parametrize("used", [True, False])
def test_centers_of_the_losses(golden_folder: Path, tmp_path: Path, used: bool) -> None:
    """Centers that were used make `train.centering=centering`; a file has zeros where they were not."""
    init = Golden(golden_folder).arrays(["vit_ssl_init.npz"])
    contents = {key.replace("/", ".", 1): value for key, value in init.items()}
    for kind, shape in (("dino_loss", (1,)), ("ibot_patch_loss", (1, 1))):
        for head, n in enumerate((24, 40, 56)):
            center = torch.randn(*shape, n) if used else torch.zeros(*shape, n)
            contents[f"{kind}.center_{head}"] = center
    torch.save({"model": contents, "iteration": 3}, tmp_path / "file.pth")
    imported = import_checkpoint(
        tmp_path / "file.pth", tmp_path / "run", overrides=["train.device=cpu", *TINY["vit"]]
    )
    assert imported.step == 4
    assert any("new moments" in message for message in imported.messages)
    config = open_run(tmp_path / "run").config
    assert config.train.centering == ("centering" if used else "sinkhorn_knopp")
    tensors = load_file(tmp_path / "run/ckpt/4" / checkpoint.MODEL)
    if used:
        assert torch.equal(tensors["cls_targets.center_1"], contents["dino_loss.center_1"])
        assert torch.equal(
            tensors["patch_targets.center_2"], contents["ibot_patch_loss.center_2"][0]
        )
    else:
        assert not [key for key in tensors if "center" in key]


def as_published(folder: Path, config: Config) -> dict[str, Any]:
    """One of our own checkpoints as the published code would have written it."""
    family = config.student.arch
    model = build_model(config)
    optimizer = build_optimizer(model.get_params_groups(), config)
    state = checkpoint.load(folder, model, optimizer)
    branches = {
        branch: module_order(getattr(model, branch).state_dict(), family)
        for branch in ("student", "teacher")
    }
    contents: dict[str, Any] = {
        f"{branch}.{key}": value
        for branch, tensors in branches.items()
        for key, value in tensors.items()
    }
    buffers = model.state_dict()
    for kind, ours in (("dino_loss", "cls_targets"), ("ibot_patch_loss", "patch_targets")):
        for head, n in enumerate(config.dino.head_n_prototypes):
            center = buffers.get(f"{ours}.center_{head}", torch.zeros(1, n))
            contents[f"{kind}.center_{head}"] = center if kind == "dino_loss" else center[None]
    optim = config.optim
    ours_ = parameter_settings(model.student, optim.layerwise_decay, optim.patch_embed_lr_mult)
    settings = {published_key(name, family): setting for name, setting in ours_.items()}
    moments = {
        published_key(name, family): {
            key: published_order(name, value) for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.student.named_parameters()
    }
    names = [name for name in branches["student"] if name in settings]
    return {
        "model": contents,
        "optimizer": optimizer_state(names, settings, moments),
        "iteration": state["step"] - 1,
    }


@families
def test_training_goes_on_bit_for_bit(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that moves to the published format and back after 2 steps of 6 ends like one that stayed."""
    overrides = [
        *FAMILIES[family],
        *PUBLISHED[family],
        "data.dataset=blobs",
        "train.OFFICIAL_EPOCH_LENGTH=3",
        "train.checkpoint_period=2",
        "train.keep_checkpoints=0",
        "optim.epochs=2",
        "optim.warmup_epochs=1",
    ]
    config = default_config([*overrides, f"output_dir={tmp_path / 'stayed'}"])
    assert train(config).finished
    torch.save(as_published(tmp_path / "stayed/ckpt/2", config), tmp_path / "moved.pth")
    imported = import_checkpoint(
        tmp_path / "moved.pth", tmp_path / "moved", config=tmp_path / "stayed/config.yaml"
    )
    assert imported.step == 2
    capsys.readouterr()
    assert train(poa.load_config(tmp_path / "moved/config.yaml")).finished
    assert "Resuming from" in capsys.readouterr().out
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        stayed, moved = (load_file(tmp_path / run / "ckpt/6" / file) for run in ("stayed", "moved"))
        assert stayed.keys() == moved.keys()
        assert all(torch.equal(value, moved[key]) for key, value in stayed.items())
