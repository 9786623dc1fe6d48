"""Without a recipe of the user's, a run starts from its family's, and what is not proven is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from poa_plugin.config.load import default_config, load_config
from poa_plugin.config.schema import Config
from poa_plugin.interop import import_checkpoint
from poa_plugin.interop.fit import _flat, _words
from poa_plugin.interop.recipes import RECIPE_KEYS, RECIPES
from poa_plugin.runs.run import open_run
from poa_plugin.train.schedules import Schedules
from tests.conftest import FAMILIES
from tests.interop.published_files import optimizer_state
from tests.interop.sharded_files import branches
from tests.interop.test_other_formats import dinov2_state, timm_vit

ROOT = Path(__file__).resolve().parents[2]
HARDWARE = ["train.device=cpu", "crops.global_crops_size=64"]
NOT_TOLD = {
    "vit": ["train.device=cpu", "student.vit.head_dim=8"],
    "swin": [*HARDWARE, "student.swin.min_width=8"],
    "resnet": [*HARDWARE, "student.resnet.groups=4"],
}
families = pytest.mark.parametrize("family", FAMILIES)


def values(config: Config) -> dict[str, Any]:
    return _flat(OmegaConf.to_container(config))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_the_files(name: str) -> None:
    file = "dinov2_vit" if name == "dinov2" else name
    arch = "vit" if name == "dinov2" else name
    theirs = values(load_config(ROOT / f"configs/ssl/{file}.yaml"))
    ours = values(default_config([f"student.arch={arch}", *_words(RECIPES[name])]))
    assert {key for key in ours if ours[key] != theirs[key]} == {"output_dir"}


def training_checkpoint(
    family: str, lr: float = 0.001, weight_decay: float = 0.04
) -> dict[str, Any]:
    """A published training checkpoint of a small network at iteration 41, by the family's decay."""
    _, tensors, _ = branches(family)
    model = {f"{b}.{key}": value for b, branch in tensors.items() for key, value in branch.items()}
    names = [key for key, value in tensors["student"].items() if value.is_floating_point()]
    settings = dict.fromkeys(names, (1.0, 1.0, False))
    first = tensors["student"][names[0]]
    moment = {"step": torch.tensor(42.0), "exp_avg": first, "exp_avg_sq": first**2}
    optimizer = optimizer_state(names, settings, {names[0]: moment})
    for group in optimizer["param_groups"]:
        group |= {"lr": lr, "weight_decay": weight_decay}
    return {"model": model, "optimizer": optimizer, "iteration": 41}


def imported(tmp_path: Path, contents: Any, *words: str, **options: Any) -> tuple[Config, str]:
    torch.save(contents, tmp_path / "file.pth")
    done = import_checkpoint(tmp_path / "file.pth", tmp_path / "run", words=words, **options)
    return open_run(tmp_path / "run").config, "\n".join(done.lines)


@families
def test_a_training_checkpoint_without_a_recipe(tmp_path: Path, family: str) -> None:
    contents = training_checkpoint(family)
    config, said = imported(tmp_path, contents, *NOT_TOLD[family], drop=["optimizer"])
    recipe = load_config(ROOT / f"configs/ssl/{family}.yaml")
    for section in ("teacher", "ibot", "optim", "loss"):
        assert config[section] == recipe[section], section
    assert config.dino.lambda_ie == recipe.dino.lambda_ie
    for key in ("shards", "batch_size_per_shard", "OFFICIAL_EPOCH_LENGTH", "precision"):
        assert config.train[key] == recipe.train[key], key
    assert config.crops.blur == "published"
    shown = {
        word.rstrip(".")
        for line in said.splitlines()
        for word in line.partition(": ")[2].split(", ")
    }
    given = {word.partition("=")[0] for word in NOT_TOLD[family]}
    for key, value in values(config).items():
        if key.startswith((*RECIPE_KEYS, f"student.{family}.")) and key not in given:
            [word] = _words({key: value})
            assert word in shown, key
    assert f"Not proven by the file, taken from the published recipe of {family}" in said
    assert "optim.adamw_beta1=0.9" in said.split("Read off the optimizer")[1].splitlines()[0]


def test_dinov2s_training_checkpoints_have_its_recipe(tmp_path: Path) -> None:
    branch = {f"backbone.{k}": v for k, v in dinov2_state(timm_vit(init_values=0.1)).items()}
    heads = {
        "mlp.0.weight": (8, 128),
        "mlp.0.bias": (8,),
        "mlp.2.weight": (8, 8),
        "mlp.2.bias": (8,),
    }
    heads |= {"mlp.4.weight": (4, 8), "mlp.4.bias": (4,), "last_layer.weight_g": (16, 1)}
    heads |= {"last_layer.weight_v": (16, 4)}
    branch |= {f"dino_head.{key}": torch.ones(shape) for key, shape in heads.items()}
    model = {f"{b}.{key}": value for b in ("student", "teacher") for key, value in branch.items()}
    config, said = imported(tmp_path, {"model": model, "iteration": 4}, "train.device=cpu")
    assert config.optim == load_config(ROOT / "configs/ssl/dinov2_vit.yaml").optim
    assert not config.loss.terms.same_view
    assert "the published recipe of dinov2" in said


def test_the_optimizer_is_compared_with_the_schedules(tmp_path: Path) -> None:
    words = ["student.arch=vit", *_words(RECIPES["vit"])]
    values_ = Schedules(default_config(words))(41)
    contents = training_checkpoint("vit", values_.lr, values_.weight_decay)
    _, said = imported(tmp_path, contents, *NOT_TOLD["vit"], drop=["optimizer"])
    assert "learning rate and weight decay at iteration 41 are this configuration's" in said
    (tmp_path / "other").mkdir()
    contents = training_checkpoint("vit", 2 * values_.lr, values_.weight_decay)
    contents["optimizer"]["param_groups"][0] |= {"betas": (0.9, 0.95), "eps": 1e-6}
    config, said = imported(tmp_path / "other", contents, *NOT_TOLD["vit"], drop=["optimizer"])
    assert "Warning: the checkpoint's learning rate at iteration 41 is" in said
    assert "weight decay at iteration" not in said
    assert "Warning: the optimizer's eps is 1e-08 here, and was 1e-06" in said
    assert config.optim.adamw_beta2 == 0.95
