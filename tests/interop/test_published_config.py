"""A published run's own `config.yaml` as `--config`: every key is used, or named with a reason."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from poa_plugin.cli import main
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop import read_checkpoint
from poa_plugin.interop.fit import _flat, _our_keys, fit_config
from poa_plugin.interop.published_config import read_published
from poa_plugin.runs.run import open_run
from tests.conftest import FAMILIES
from tests.interop.published_configs import published_config, write_yaml
from tests.interop.sharded_files import branches
from tests.interop.test_other_formats import dinov2_state, timm_vit

families = pytest.mark.parametrize("family", FAMILIES)


def weights(family: str, folder: Path) -> Path:
    """A small network's file in the published format."""
    _, tensors, _ = branches(family)
    torch.save({"teacher": tensors["teacher"]}, folder / f"{family}.pth")
    return folder / f"{family}.pth"


def fit(family: str, folder: Path, config: dict[str, Any], *overrides: str) -> tuple[Config, str]:
    file = write_yaml(config, folder / "config.yaml")
    fitted, messages = fit_config(read_checkpoint(weights(family, folder)), file, overrides)
    return fitted, "\n".join(messages)


OURS = {
    "dino.lambda_ie": 0.7,
    "dino.head_n_prototypes": [16, 24],
    "ibot.start_epoch": 2,
    "ibot.loss_weight": 0.9,
    "ibot.mask_sample_probability": 0.4,
    "ibot.mask_ratio_min_max": [0.1, 0.3],
    "loss.normalization": "code",
    "crops.blur": "published",
    "crops.local_crops_number": 3,
    "crops.local_crops_size": 32,
    "train.shards": 4,
    "train.batch_size_per_shard": 6,
    "train.OFFICIAL_EPOCH_LENGTH": 6,
    "train.precision": "fp16",
    "train.seed": 0,
    "teacher.warmup_teacher_temp": 0.03,
    "optim.epochs": 4,
    "optim.base_lr": 0.003,
    "optim.iter_num_scale": 0.8,
}
OF_FAMILY = {
    "vit": {
        "min_width": 32,
        "width_step": 16,
        "depth_step": 2,
        "drop_path_uniform": False,
        "net_select_scale": 2,
        "layerscale": 0.1,
    },
    "swin": {
        "min_width": 8,
        "width_step": 4,
        "min_depth": 2,
        "patch_norm": "full",
        "net_select_scale": 2,
    },
    "resnet": {
        "min_width": 8,
        "max_width": 16,
        "width_step": 4,
        "out_width": 32,
        "groups": 4,
        "decay_shortcut_norm": True,
        "net_select_scale": 2,
    },
}


@families
def test_the_runs_values_are_taken(tmp_path: Path, family: str) -> None:
    config, said = fit(family, tmp_path, published_config(family))
    wanted = OURS | {f"student.{family}.{key}": value for key, value in OF_FAMILY[family].items()}
    actual = {key: OmegaConf.select(config, key) for key in wanted}
    assert actual == wanted
    assert "train.shards=4: as many GPUs make the optim.lr" in said
    other, _ = fit(family, tmp_path, published_config(family), "train.shards=2", "optim.epochs=9")
    assert (other.train.shards, other.optim.epochs) == (2, 9)


def other(value: Any) -> Any:
    """A value that is not the given one, of its type if possible."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [other(x) for x in value]
    return {"fp16": "bf16", "": "/weights.pth"}.get(value, f"{value}_other")


@families
def test_every_key_is_used_or_named(family: str) -> None:
    theirs, ours = _flat(published_config(family)), _our_keys()

    def read(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        published = read_published(values, ours, family, "config.yaml", is_dinov2=False)
        return published.values, "\n".join(published.messages)

    values, said = read(theirs)
    named = set(said.partition(": ")[2].partition(".\n")[0].split(", "))
    assert named >= {"train.num_workers", "train.seed", "MODEL.WEIGHTS"}
    for key in theirs.keys() - named:
        try:
            changed, _ = read({**theirs, key: other(theirs[key])})
        except UserError as error:
            assert key in str(error)
        else:
            assert changed != values, key


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    config = published_config("vit")
    config["optim"]["lookahead"] = 3
    config["extra"] = {"a": {"b": 1}}
    config["data"] = {"path": "/data/my images"}
    fitted, said = fit("vit", tmp_path, config)
    not_used = next(message for message in said.splitlines() if message.startswith("Not used"))
    assert ", extra.a.b" in not_used
    assert ", optim.lookahead" in not_used
    assert fitted.data.path == "/data/my images"


def test_what_a_configuration_leaves_out_is_the_recipes(tmp_path: Path) -> None:
    config = published_config("resnet")
    for section, key in (("optim", "epochs"), ("optim", "lr"), ("train", "batch_size_per_gpu")):
        del config[section][key]
    fitted, said = fit("resnet", tmp_path, config)
    assert (fitted.optim.epochs, fitted.train.batch_size_per_shard) == (692, 40)
    assert fitted.train.shards == 32
    assert "How many GPUs the run had is not in" in said
    assert "Everything else is the recipe 'resnet'" in said


REFUSED = [
    ("student.mode", "random", "is random, and can only be order here"),
    ("student.num_register_tokens", 4, "can only be 0 here"),
    ("student.arch", "swin_dynamic", "but the file holds a vit"),
    ("student.width_interval", "two", "'student.vit.width_step' is 'two"),
    ("student.max_embed_dim", 96, "student.vit.max_width is 96, but 48 in the file"),
    ("optim.epochs", "many", "optim.epochs"),
    ("optim.scaling_rule", "linear_wrt_256", "optim.scaling_rule"),
]


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_configurations_of_other_networks(tmp_path: Path, key: str, value: Any, said: str) -> None:
    config = published_config("vit")
    section, _, name = key.partition(".")
    config[section][name] = value
    with pytest.raises(UserError) as error:
        fit("vit", tmp_path, config)
    assert said in str(error.value)


def test_dinov2s_own_configuration(tmp_path: Path) -> None:
    config = published_config("vit")
    config["student"] = {
        "arch": "vit_small_memeff",
        "patch_size": 8,
        "drop_path_rate": 0.3,
        "layerscale": 1.0e-05,
        "drop_path_uniform": True,
        "pretrained_weights": "",
        "ffn_layer": "mlp",
        "block_chunks": 4,
        "qkv_bias": True,
        "proj_bias": True,
        "ffn_bias": True,
        "num_register_tokens": 0,
        "interpolate_antialias": False,
        "interpolate_offset": 0.1,
    }
    del config["dino"]["lambda_ie"], config["optim"]["ibot_activate_epochs"]
    del config["optim"]["iter_num_scale"], config["train"]["scale_for_num_patch"]
    config["dino"]["head_n_prototypes"] = 24
    file = write_yaml(config, tmp_path / "config.yaml")
    model = timm_vit(embed_dim=384, depth=12, num_heads=6, init_values=0.1)
    torch.save(dinov2_state(model, chunks=4), tmp_path / "weights.pth")
    fitted, messages = fit_config(read_checkpoint(tmp_path / "weights.pth"), file, [])
    options = fitted.student.vit
    assert (options.max_width, options.max_depth, options.head_dim) == (384, 12, 64)
    assert list(fitted.dino.head_n_prototypes) == [24]
    assert (fitted.dino.lambda_ie, fitted.ibot.start_epoch) == (1.0, 0)
    assert fitted.optim.iter_num_scale == 1.0
    assert not fitted.loss.terms.same_view
    assert not fitted.loss.terms.cross_view_elastic
    assert any("student.block_chunks" in message for message in messages)
    wrong = copy.deepcopy(config)
    wrong["student"]["arch"] = "vit_large"
    with pytest.raises(UserError, match="max_width is 1024, but 384"):
        write_yaml(wrong, file)
        fit_config(read_checkpoint(tmp_path / "weights.pth"), file, [])


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_yaml(published_config("swin"), tmp_path / "published.yaml")
    argv = ["import", str(weights("swin", tmp_path)), "--to", str(tmp_path / "run")]
    assert main([*argv, "--config", str(file), "train.device=cpu"]) == 0
    said = capsys.readouterr().out
    assert f"Taken from '{file}': " in said
    run = open_run(tmp_path / "run")
    assert run.config.student.swin.patch_norm == "full"
    assert len(run.space) == 9
    assert load_config(tmp_path / "run/config.yaml").dino.lambda_ie == 0.7
