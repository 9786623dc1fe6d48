"""Without a recipe of the user's, a run starts from its family's, and what is not proven is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop import import_checkpoint
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


def imported(tmp_path: Path, contents: Any, *overrides: str, **options: Any) -> tuple[Config, str]:
    torch.save(contents, tmp_path / "file.pth")
    done = import_checkpoint(
        tmp_path / "file.pth", tmp_path / "run", overrides=overrides, **options
    )
    return open_run(tmp_path / "run").config, "\n".join(done.messages)


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
    assert f"Everything else is the recipe '{family}'" in said
    assert "optim.adamw_beta1=0.9" in said.split("Read off the file")[1].splitlines()[0]


def test_a_recipe_by_its_name(tmp_path: Path) -> None:
    """It is the user's: its values are laid over what is chosen, and the rest is the schema's default."""
    contents = training_checkpoint("vit")
    with pytest.raises(UserError, match=r"student\.arch is swin, but vit in the file"):
        imported(tmp_path, contents, config="swin")
    options = {"config": "dinov2_vit", "drop": ["optimizer", "dino_head"]}
    config, said = imported(tmp_path, contents, *NOT_TOLD["vit"], **options)
    assert config.optim.epochs == 100
    assert "Everything else" not in said


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
    assert "Everything else is the recipe 'dinov2_vit'" in said


def test_the_optimizer_is_compared_with_the_schedules(tmp_path: Path) -> None:
    values = Schedules(load_config("vit"))(41)
    contents = training_checkpoint("vit", values.lr, values.weight_decay)
    _, said = imported(tmp_path, contents, *NOT_TOLD["vit"], drop=["optimizer"])
    assert "Warning" not in said
    (tmp_path / "other").mkdir()
    contents = training_checkpoint("vit", 2 * values.lr, values.weight_decay)
    contents["optimizer"]["param_groups"][0] |= {"betas": (0.9, 0.95)}
    config, said = imported(tmp_path / "other", contents, *NOT_TOLD["vit"], drop=["optimizer"])
    assert "Warning: the checkpoint's learning rate at iteration 41 is" in said
    assert "weight decay at iteration" not in said
    assert config.optim.adamw_beta2 == 0.95
