"""Overlays: what wins over what, and that a saved configuration reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.config.load import default_config, load_config, save_config
from poa_plugin.errors import UserError


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        default_config(["student.arch=vit", *overrides])
    return str(error.value)


def test_words_win_over_the_file_and_the_last_word_wins(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("student: {arch: vit}\ntrain: {seed: 3, shards: 2}\n")
    config = load_config(tmp_path / "c.yaml", ["train.seed=4", "train.seed=5"])
    assert (config.train.seed, config.train.shards) == (5, 2)
    assert config.optim.epochs == 346


def test_a_saved_configuration_reads_back(tmp_path: Path) -> None:
    config = default_config(["student.arch=vit", "crops.local_crops_scale=[0.1,0.2]"])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_a_section_can_be_set_whole() -> None:
    config = default_config(["student.arch=vit", "train={seed: 3, shards: 2}"])
    assert (config.train.seed, config.train.shards) == (3, 2)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr=1", "'optim.base_lr'"),
        ("optim.lr=1", "'optim.base_lr'"),
        ("student.lr=1", "'optim.base_lr'"),
        ("learning-rate=1", "'optim.base_lr'"),
        ("optim.base_rl=1", "'optim.base_lr'"),
        ("batch_size=1", "'train.batch_size_per_shard' or 'evaluation.batch_size'"),
        ("train.batch_size=1", "'train.batch_size_per_shard'"),
        ("epochs=1", "'optim.epochs'"),
        ("workers=1", "'data.num_workers'"),
        ("width=1", "'student.vit.max_width'"),
        ("fp16=true", "'train.precision'"),
        ("loss.same_view=false", "'loss.terms.same_view'"),
    ],
)
def test_unknown_keys_lead_to_what_is_meant(word: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refused(word)


def test_all_wrong_values_of_a_command_are_named_up_to_five() -> None:
    said = refused("foo=1", "train.seed=one", "dino.lambda_ie=80", "optim.base_lr=0")
    assert "Unknown configuration key 'foo'" in said
    assert "The key 'train.seed' is 'one': it must be a whole number from 0 to" in said
    assert "did you mean 0.8?" in said
    assert "The key 'optim.base_lr' is 0: it must be a number above 0" in said
    many = refused(*(f"nonsense{i}=1" for i in range(7)))
    assert many.endswith("And 2 more.")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.seed=1e3"], "did you mean 1000?"),
        (["train.compile=ture"], "did you mean true?"),
        (["optim.base_lr=nan"], "above 0 and at most 10"),
        (["teacher.momentum_teacher=1.5"], "from 0 to 1"),
        (["dino.head_n_prototypes=[0]"], "from 2 to"),
        (["dino.head_hidden_dim=1000000000000"], "from 1 to 262144"),
        (["crops.local_crops_scale=[0,1]"], "from 0.0001 to 1"),
        (["train.threads=0"], "null, or a whole number from 1 to 1024"),
        (["evaluation.crop_size=300"], "must not exceed 'evaluation.resize_size', which is 256"),
        (
            [
                "dino.loss_weight=0",
                "ibot.loss_weight=0",
                "dino.koleo_loss_weight=0",
                "dino.lambda_ie=1",
            ],
            "nothing to optimize",
        ),
    ],
)
def test_values_out_of_range(overrides: list[str], said: str) -> None:
    assert said in refused(*overrides)
