"""The schema: overlays, and its reference page."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import OmegaConf

from poa_plugin.config.load import default_config, load_config, save_config

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def leaves(node: object, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, dict) else [name]
    return found


def test_the_reference_names_every_key_and_no_other() -> None:
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        words = re.findall(r"`([^`]+)`", cell)
        section = words[0].rpartition(".")[0]
        named |= {word if "." in word or not section else f"{section}.{word}" for word in words}
    config = OmegaConf.to_container(default_config(["student.arch=vit"]))
    assert named == set(leaves(config))


def test_words_win_over_the_file_and_the_last_word_wins(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("student: {arch: vit}\ntrain: {seed: 3, shards: 2}\n")
    config = load_config(tmp_path / "c.yaml", ["train.seed=4", "train.seed=5"])
    assert (config.train.seed, config.train.shards) == (5, 2)
    assert config.optim.epochs == 346


def test_a_saved_configuration_reads_back(tmp_path: Path) -> None:
    config = default_config(["student.arch=vit", "crops.local_crops_scale=[0.1,0.2]"])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
