"""Profiles: what comes with the package, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.launch.profile import Profile, limit_in_minutes, load_profile, profile_names

RANKS = {"cpu": 4, "one_gpu": 1, "one_node": 8, "published": 32}


def test_those_that_come_with_the_package() -> None:
    assert profile_names() == sorted(RANKS)
    assert {name: load_profile(name).ranks for name in RANKS} == RANKS


def test_overrides_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nodes: 3\nenvironment: {A: '1', B: two words}\nsetup: [module load cuda]\n")
    profile = load_profile(file, ["profile.nodes=2", "profile.environment.C=3", "profile.time=90"])
    assert (profile.nodes, profile.minutes, profile.setup) == (2, 90, ["module load cuda"])
    assert profile.environment == {"A": "1", "B": "two words", "C": "3"}
    assert load_profile(file).environment == {"A": "1", "B": "two words"}
    assert Profile().environment == {}


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        ("45", 45),
        ("1:30", 2),
        ("1:00:00", 60),
        ("0:00:01", 1),
        ("2-0", 2880),
        ("1-2:03", 1563),
        ("1-00:00:01", 1441),
    ],
)
def test_limits_as_slurm_writes_them(limit: str, minutes: int) -> None:
    assert limit_in_minutes(limit) == minutes


@pytest.mark.parametrize("limit", ["", "0", "-1", "1:2:3:4", "a day", "1.5", "0-0"])
def test_limits_that_are_none(limit: str) -> None:
    with pytest.raises(UserError, match=r"profile\.time"):
        limit_in_minutes(limit)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["profile.nodez=2"],
            "Unknown configuration key 'profile.nodez': did you mean 'profile.nodes'",
        ),
        (["profile.queue=gpu"], "did you mean 'profile.partition'"),
        (
            ["profile.nodes=0"],
            "The key 'profile.nodes' is 0: it must be a whole number from 1 to 4096",
        ),
        (["profile.nodes=two"], "'profile.nodes' is 'two': it must be a whole number"),
        (["profile.gpus_by=gpu"], "'profile.gpus_by' is 'gpu'"),
        (["profile.time=1", "profile.signal_delay_s=60"], "it could not take a step"),
        (["profile.chain=2"], "set profile.requeue=false"),
        (["profile.gpu_type=a100", "profile.gpus_per_node=0"], "profile.gpu_type names GPUs"),
        (["profile.gpus_by=gpus-per-task", "profile.gpus_per_node=4"], "a rank has one GPU"),
        (["profile.sbatch=[mail-type=FAIL]"], "it has no dash"),
        (["nodes"], "not of the form key=value"),
    ],
)
def test_wrong_values_are_sentences(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load_profile("cpu", overrides)
    assert sentence in str(error.value)


def test_unknown_profiles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no profile 'one_gpus': did you mean 'one_gpu'"):
        load_profile("one_gpus")
    with pytest.raises(UserError, match=r"There is no configuration file .*nowhere\.yaml"):
        load_profile(tmp_path / "nowhere.yaml")
    (tmp_path / "wrong.yaml").write_text("partitoin: gpu\n")
    with pytest.raises(UserError, match=r"did you mean 'profile\.partition'"):
        load_profile(tmp_path / "wrong.yaml")
