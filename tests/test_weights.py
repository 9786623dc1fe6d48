"""Files of weights: who may read them, and disks that refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as st_save

from poa_plugin.weights import load_tensors, save_tensors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode
    assert load_tensors(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


def test_a_disk_that_refuses_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        save_tensors({"a": torch.ones(2)}, tmp_path / "missing" / "a.safetensors")


def test_a_file_system_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files have the same there, and nothing may change them."""

    def save(tensors: dict[str, torch.Tensor], file: Path, metadata: None = None) -> None:
        file.write_bytes(st_save(tensors))

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr("poa_plugin.weights.save_file", save)
    monkeypatch.setattr(Path, "chmod", refuse)
    save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert load_tensors(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]
