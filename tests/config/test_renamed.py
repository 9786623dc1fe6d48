"""Former names of keys: silently in a run's own file, with one warning everywhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from poa_plugin.cli import main
from poa_plugin.config import renamed
from poa_plugin.config.keys import all_keys
from poa_plugin.config.load import default_config, load_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.interop.fit import is_published_file
from poa_plugin.runs.record import read_record
from poa_plugin.train.loop import train
from tests.conftest import Make
from tests.train.test_loop import weights

VALUES = {
    "train.lockstep": ("true", True),
    "loss.normalisation": ("paper", "paper"),
    "data.max_bad_share": ("0.25", 0.25),
}
"""Of every former name a value that is not the default: as it is written, and read."""
former = pytest.mark.parametrize("name", sorted(renamed.RENAMED))


@pytest.fixture(autouse=True)
def first_warnings() -> Iterator[None]:
    renamed.warn.cache_clear()
    yield
    renamed.warn.cache_clear()


def old_file(path: Path, name: str) -> Path:
    """Write a file that sets one key by its former name."""
    section, _, key = name.partition(".")
    path.write_text(f"student: {{arch: vit}}\n{section}: {{{key}: {VALUES[name][0]}}}\n")
    return path


def warnings(said: str, name: str) -> int:
    return said.count(f"warning: the key '{name}' in ") * said.count(
        f"now '{renamed.RENAMED[name]}'"
    )


def test_the_table_leads_from_no_key_to_a_key() -> None:
    keys = {key.name for key in all_keys().leaves()}
    assert set(VALUES) == set(renamed.RENAMED)
    assert not keys & renamed.RENAMED.keys()
    assert keys >= set(renamed.RENAMED.values())


@former
def test_files_and_overrides_warn_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, value = VALUES[name]
    file = old_file(tmp_path / "my.yaml", name)
    for _ in range(2):
        assert OmegaConf.select(load_config(file), renamed.RENAMED[name]) == value
    said = capsys.readouterr().err
    assert warnings(said, name) == 1
    assert f"'{file}'" in said
    for _ in range(2):
        config = default_config(["student.arch=vit", f"{name}={text}"])
        assert OmegaConf.select(config, renamed.RENAMED[name]) == value
    said = capsys.readouterr().err
    assert warnings(said, name) == 1
    assert "the command line" in said
    section, _, key = name.partition(".")
    config = default_config(["student.arch=vit", f"{section}={{{key}: {text}}}"])
    assert OmegaConf.select(config, renamed.RENAMED[name]) == value


@former
@pytest.mark.parametrize("beside", ["ckpt", "metrics.jsonl"])
def test_the_file_of_a_run_is_read_without_a_warning(
    name: str, beside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = old_file(tmp_path / "config.yaml", name)
    (tmp_path / beside).mkdir() if beside == "ckpt" else (tmp_path / beside).touch()
    assert OmegaConf.select(load_config(file), renamed.RENAMED[name]) == VALUES[name][1]
    assert capsys.readouterr().err == ""
    load_config(file, [f"{name}={VALUES[name][0]}"])
    assert warnings(capsys.readouterr().err, name) == 1


@former
def test_the_page_shows_the_present_name(name: str, finished_run: Path, tmp_path: Path) -> None:
    shutil.copy(finished_run / "metrics.jsonl", tmp_path)
    old_file(tmp_path / "config.yaml", name)
    assert read_record(tmp_path).settings[renamed.RENAMED[name]] == str(VALUES[name][1])


def test_a_config_of_no_run_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_config(old_file(tmp_path / "config.yaml", "train.lockstep"))
    assert warnings(capsys.readouterr().err, "train.lockstep") == 1


def test_of_both_names_the_later_one_wins(tmp_path: Path) -> None:
    old, new = "train.lockstep=true", "train.joint_students=false"
    assert not default_config(["student.arch=vit", old, new]).train.joint_students
    assert default_config(["student.arch=vit", new, old]).train.joint_students
    file = tmp_path / "my.yaml"
    for keys, value in (
        ("{lockstep: true, joint_students: false}", False),
        ("{joint_students: false, lockstep: true}", True),
    ):
        file.write_text(f"student: {{arch: vit}}\ntrain: {keys}\n")
        assert load_config(file).train.joint_students is value


def test_references_to_former_names(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "student.arch=vit",
        "data.max_bad_ratio=0.5",
        "dino.lambda_ie=${data.max_bad_share}",
    ]
    assert default_config(overrides).dino.lambda_ie == 0.5
    assert warnings(capsys.readouterr().err, "data.max_bad_share") == 1


def test_wrong_values_and_nearest_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"'loss\.normalization' is 'papper'.*did you mean 'paper'"):
        default_config(["student.arch=vit", "loss.normalisation=papper"])
    for word, meant in (
        ("loss.normalisaton=code", "loss.normalization"),
        ("lockstep=true", "train.joint_students"),
        ("max_bad_share=1", "data.max_bad_ratio"),
    ):
        with pytest.raises(UserError, match=f"did you mean '{meant}'"):
            default_config(["student.arch=vit", word])
    assert main(["config", "train.lockstep"]) == 0
    said = capsys.readouterr().out
    assert "'train.lockstep' is now 'train.joint_students'." in said
    assert "train.joint_students = false" in said
    assert main(["config", "max_bad_sh"]) == 0
    assert "data.max_bad_ratio = 0.001" in capsys.readouterr().out


@former
def test_an_old_file_is_not_taken_for_a_published_one(name: str, tmp_path: Path) -> None:
    assert not is_published_file(old_file(tmp_path / "my.yaml", name))


def test_a_run_of_the_previous_version_trains_on_bit_for_bit(
    small_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(folder: str, *overrides: str) -> Config:
        return small_config(
            "data.dataset=blobs",
            "train.OFFICIAL_EPOCH_LENGTH=2",
            "train.checkpoint_period=2",
            "optim.epochs=2",
            "optim.warmup_epochs=1",
            f"output_dir={tmp_path / folder}",
            *(f"{renamed.RENAMED[name]}={text}" for name, (text, _) in VALUES.items()),
            *overrides,
        )

    assert train(start("whole")).finished
    assert not train(start("old", "train.max_minutes=1e-9")).finished
    file = tmp_path / "old/config.yaml"
    text = file.read_text()
    for old, new in renamed.RENAMED.items():
        old_key, new_key = old.partition(".")[2], new.partition(".")[2]
        assert text.count(f" {new_key}:") == 1
        text = text.replace(f" {new_key}:", f" {old_key}:")
    file.write_text(text)
    capsys.readouterr()
    assert train(load_config(file, ["train.max_minutes=null"])).finished
    printed = capsys.readouterr()
    assert "is now" not in printed.err
    assert "other values" not in printed.out
    assert not (tmp_path / "old/config.1.yaml").exists()
    resumed, straight = weights(tmp_path / "old"), weights(tmp_path / "whole")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert " joint_students: true" in file.read_text()
