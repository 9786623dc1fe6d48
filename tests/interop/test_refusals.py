"""What is not imported: each mistake is one sentence that names what it is about, and nothing is written."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.interop import import_checkpoint, read_checkpoint
from tests.interop.published_files import backbone_key, optimizer_state
from tests.interop.test_other_formats import OVERRIDES, dinov2_state, timm_vit
from tests.parity.published import student_key as our_student_key
from tests.test_cli import fails


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A small network in the published format."""
    dinov2 = dinov2_state(timm_vit(init_values=0.1))
    return {backbone_key(key): value for key, value in dinov2.items()}


def save(tmp_path: Path, contents: Any) -> Path:
    torch.save(contents, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def refused(tmp_path: Path, contents: Any, *overrides: str, **options: Any) -> str:
    """Import what has to be refused; return the sentence."""
    file = save(tmp_path, contents)
    with pytest.raises(UserError) as error:
        import_checkpoint(file, tmp_path / "run", overrides=[*OVERRIDES, *overrides], **options)
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_missing_unknown_and_misshapen_keys_are_all_named(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    del state["blocks.1.attn.proj.linear.bias"], state["cls_token"]
    state["blocks.2.mlp.gate"] = torch.zeros(3)
    state["extra"] = torch.zeros(2)
    state["blocks.0.norm1.norm.weight"] = torch.zeros(64)
    state["pos_embed"] = torch.zeros(1, 30, 128)
    argv = ["import", str(save(tmp_path, state)), "--to", str(tmp_path / "run")]
    said = fails(capsys, *argv, "--config", *OVERRIDES)
    assert "missing: 'blocks.1.attn.proj.bias', 'cls_token';" in said
    assert "leaves out what is of no use): 'blocks.2.mlp.gate', 'extra';" in said
    assert "'blocks.0.norm1.norm.weight' is (64,), not (128,)" in said
    assert "'pos_embed' is (1, 30, 128), not (1, 26, 128)" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "key",
    [
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.norm1.norm.weight",
        "blocks.1.mlp.fc1.linear.weight",
    ],
)
def test_each_kind_of_key_by_itself(tmp_path: Path, state: dict[str, Tensor], key: str) -> None:
    ours = key.replace(".linear.", ".").replace(".norm.", ".")
    without = {name: value for name, value in state.items() if name != key}
    assert f"missing: '{ours}'" in refused(tmp_path, without)
    for wrong in (torch.zeros(3, 5, 7), state[key][..., :-1]):
        assert f"'{key}' is {tuple(wrong.shape)}" in refused(tmp_path, {**state, key: wrong})


def test_a_branch_that_lacks_what_the_other_has(tmp_path: Path, state: dict[str, Tensor]) -> None:
    both = {f"{b}.backbone.{k}": v for b in ("student", "teacher") for k, v in state.items()}
    del both["student.backbone.blocks.1.ls2.gamma"]
    said = refused(tmp_path, {"model": {**both, "stray.weight": torch.zeros(1)}})
    assert "missing: 'student.backbone.blocks.1.ls2.gamma'" in said
    assert "of no use): 'stray.weight'" in said


def test_integers_are_no_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    said = refused(tmp_path, {**state, "norm.norm.bias": torch.zeros(128, dtype=torch.int64)})
    assert "'norm.norm.bias' is (128,) of int64, not (128,)" in said


def test_weights_that_are_not_finite(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["blocks.1.ls1.gamma"][3] = torch.inf
    state["pos_embed"][0, 1, 2] = torch.nan
    assert "not finite: 'blocks.1.ls1.gamma', 'pos_embed'" in refused(tmp_path, state)


def test_a_missing_block_is_missing(tmp_path: Path, state: dict[str, Tensor]) -> None:
    without = {key: value for key, value in state.items() if not key.startswith("blocks.1.")}
    said = refused(tmp_path, without)
    assert said.count("'blocks.1.") == 14


def test_the_final_norm_that_the_published_tool_forgets(tmp_path: Path) -> None:
    dinov2 = dinov2_state(timm_vit(init_values=0.1))
    without = {key: value for key, value in dinov2.items() if not key.startswith("norm.")}
    said = refused(tmp_path, without)
    assert "missing: 'norm.bias', 'norm.weight'" in said


def test_a_name_twice(tmp_path: Path, state: dict[str, Tensor]) -> None:
    twice = {**state, "norm.weight": state["norm.norm.weight"]}
    assert "'norm.norm.weight' and 'norm.weight'" in refused(tmp_path, twice)


def test_a_configuration_that_contradicts(tmp_path: Path, state: dict[str, Tensor]) -> None:
    overrides = [
        "student.vit.max_width=192",
        "student.vit.qkv_bias=false",
        "student.vit.layerscale=1",
    ]
    said = refused(tmp_path, state, *overrides)
    assert "student.vit.max_width is 192, but 128 in the file" in said
    assert "student.vit.qkv_bias is false, but true" in said
    assert "layerscale" not in said
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {vit: {max_depth: 12}}\n")
    assert "max_depth is 12, but 3" in refused(tmp_path, state, config=recipe)
    said = refused(tmp_path, state, "student.vit.max_widht=128")
    assert "did you mean 'student.vit.max_width'" in said


def test_a_head_dimension_that_nothing_tells(tmp_path: Path) -> None:
    state = dinov2_state(timm_vit(init_values=0.1, embed_dim=72, num_heads=3))
    assert "student.vit.head_dim=..." in refused(tmp_path, state)
    overrides = [*OVERRIDES, "student.vit.head_dim=24"]
    import_checkpoint(save(tmp_path, state), tmp_path / "run", overrides=overrides)


def test_a_run_that_is_there_is_not_overwritten(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "import",
        str(save(tmp_path, state)),
        "--to",
        str(tmp_path / "run"),
        "--config",
        *OVERRIDES,
    ]
    from poa_plugin.cli import main

    assert main(argv) == 0
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert "already exists" in fails(capsys, *argv)
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}


def test_flat_parameters_in_one_file(tmp_path: Path) -> None:
    flat = {"model": {"student.backbone._flat_param": torch.zeros(10)}, "iteration": 3}
    assert "are called '_flat_param'" in refused(tmp_path, flat)


class Evil:
    """A pickle that creates a file when it is read the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle 2", "pickle 5"])
def test_a_pickle_that_would_run_code(tmp_path: Path, state: dict[str, Tensor], how: str) -> None:
    trap, file = tmp_path / "trap", tmp_path / "file.pth"
    contents = {"model": state, "optimizer": Evil(trap)}
    if how.startswith("pickle"):
        file.write_bytes(pickle.dumps({"model": Evil(trap)}, protocol=int(how[-1])))
    else:
        torch.save(contents, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError) as error:
        read_checkpoint(file)
    assert how == "pickle 5" or "('posix.system')" in str(error.value)
    assert not trap.exists()
    if how.startswith("pickle"):
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert trap.exists()


def test_numpy_numbers_are_harmless(tmp_path: Path, state: dict[str, Tensor]) -> None:
    numbers = {"lr": np.float64(0.1), "wd": np.float32(0.1), "n": np.int64(3), "on": np.bool_(True)}
    optimizer = {"state": {}, "param_groups": [numbers]}
    file = save(tmp_path, {"model": state, "optimizer": optimizer, "iteration": np.int64(4)})
    assert read_checkpoint(file).iteration == 4


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    assert "it holds a list" in refused(tmp_path, [torch.zeros(1)])
    assert "not hold one network: its entries are 'epoch', 'args'" in refused(
        tmp_path, {"epoch": 1, "args": {}}
    )
    assert "'conv1.weight'" in refused(tmp_path, {"conv1.weight": torch.zeros(1)})
    both = {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}}
    assert "its entries are 'model', 'state_dict'" in refused(tmp_path, both)


def test_formats_and_names_to_drop(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert "did you mean 'dinov2'" in refused(tmp_path, state, format_name="dino")
    assert "'blocks.0.attn.qkv.linear.weight'" in refused(tmp_path, state, format_name="timm")
    assert "Nothing in" in refused(tmp_path, state, drop=["haed"])
    assert "missing: 'norm.bias', 'norm.weight'" in refused(tmp_path, state, drop=["norm"])
    assert "no blocks with norms" in refused(tmp_path, state, drop=["blocks"])


def test_a_cut_off_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = save(tmp_path, state)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="no checkpoint that torch can read"):
        read_checkpoint(file)
    save_file(state, tmp_path / "file.safetensors")
    cut = tmp_path / "file.safetensors"
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(cut)


def test_optimizers_that_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The moments of another optimizer are refused, and left out where that is asked for."""
    heads = {
        "mlp0.0.linear.weight": torch.zeros(32, 128),
        "mlp0.0.linear.bias": torch.zeros(32),
        "mlp0.2.weight": torch.zeros(16, 32),
        "mlp0.2.bias": torch.zeros(16),
        "last_layer0.weight_g": torch.ones(16, 1),
        "last_layer0.weight_v": torch.ones(16, 16),
    }
    branch = {f"backbone.{key}": value for key, value in state.items()}
    branch |= {f"dino_head.{key}": value for key, value in heads.items()}
    model = {f"{b}.{key}": value for b in ("student", "teacher") for key, value in branch.items()}

    def contents(optimizer: dict[str, Any]) -> dict[str, Any]:
        return {"model": model, "optimizer": optimizer, "iteration": 9}

    settings = dict.fromkeys(branch, (1.0, 1.0, False))
    moment = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    first = next(iter(branch))
    one_group = optimizer_state(list(branch), settings, {first: moment})
    overrides = ["optim.layerwise_decay=1", "optim.patch_embed_lr_mult=1"]
    assert "groups, not" in refused(tmp_path, contents(one_group), *overrides)
    named = {"state": {"student.backbone.cls_token": moment}, "param_groups": []}
    assert "--drop optimizer" in refused(tmp_path, contents(named))
    for name in branch:
        undecayed = name.endswith(".bias") or "norm" in name or "gamma" in name
        settings[name] = (1.0, 0.0 if undecayed else 1.0, "last_layer" in name)
    shape = refused(
        tmp_path, contents(optimizer_state(list(branch), settings, {first: moment})), *overrides
    )
    assert f"it has a exp_avg of (3,) for '{our_student_key('vit')(first)}'" in shape
    lacking = {first: {"step": torch.tensor(1.0)}}
    assert "or not of AdamW" in refused(
        tmp_path, contents(optimizer_state(list(branch), settings, lacking)), *overrides
    )
    file = save(tmp_path, contents(named))
    options = {"overrides": ["student.vit.head_dim=64", "train.device=cpu"], "drop": ["optimizer"]}
    imported = import_checkpoint(file, tmp_path / "run", **options)
    assert imported.step == 10
    assert any("new moments" in message for message in imported.messages)


def test_recipes_that_cannot_be_used(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["import", str(save(tmp_path, state)), "--to", str(tmp_path / "run"), "--config"]
    assert "no configuration file" in fails(capsys, *argv, str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert "not valid YAML" in fails(capsys, *argv, str(tmp_path / "bad.yaml"))
    (tmp_path / "other.yaml").write_text("student: {arch: something}\n")
    assert "student.arch is something, but" in fails(capsys, *argv, str(tmp_path / "other.yaml"))
    assert "takes one recipe, not 2" in fails(capsys, *argv, "a.yaml", "b.yaml")
    (tmp_path / "run").write_text("")
    assert "is a file" in fails(capsys, *argv[:-1])
