"""How much memory a process may use: its container's and its job's limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin import memory
from poa_plugin.errors import UserError


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of `/`, in which no limits are told."""
    limits = {name: f"{tmp_path}{file}" for name, file in memory.LIMITS.items()}
    monkeypatch.setattr(memory, "LIMITS", limits)
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def test_no_limits(system: Path) -> None:
    physical = memory.total_memory()
    assert physical > 1 << 28
    write(system / "sys/fs/cgroup/memory.max", "max")
    write(system / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    write(system / "groups", "0::/not/there")
    assert memory.total_memory() == physical


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("", "memory.max"),
        ("0::/", "memory.max"),
        ("0::/slurm/job_1/step_0", "slurm/job_1/memory.max"),
        ("0::/slurm/job_1/step_0", "slurm/job_1/step_0/memory.max"),
        ("5:cpu,memory:/job_1\n0::/", "memory/job_1/memory.limit_in_bytes"),
        ("5:memory:/docker/a:b", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_a_group_or_of_one_around_it(groups: str, file: str, system: Path) -> None:
    write(system / "groups", groups)
    write(system / "sys/fs/cgroup" / file, "12345678")
    write(system / "sys/fs/cgroup/other/memory.max", "1")
    assert memory.total_memory() == 12345678


def test_what_does_not_fit_is_refused(system: Path) -> None:
    write(system / "sys/fs/cgroup/memory.max", "2000000000")
    memory.check_memory(2_000_000_000, "It needs", "make it smaller")
    with pytest.raises(UserError, match=r"^It needs 2\.1 GB of memory, .* has 2\.0 GB: make it"):
        memory.check_memory(2_100_000_000, "It needs", "make it smaller")
