"""Consolidating a checkpoint of several ranks: the same tensors in the files of one process."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint
from poa_plugin.train.consolidate import consolidate
from poa_plugin.train.integrity import FORMAT_VERSION, read_manifest, read_state
from poa_plugin.train.manifest import KINDS
from tests.train.kills import at_every_point, killed_before
from tests.train.make_checkpoint import CHECKPOINTS, STEP

SOURCE = CHECKPOINTS / f"v{FORMAT_VERSION}/ckpt"


def read(folder: Path) -> dict[str, Tensor]:
    tensors = {}
    for kind in KINDS:
        with checkpoint.open_tensors(folder, kind) as stored:
            tensors |= {f"{kind}/{name}": stored.read(name) for name in stored.shapes}
    return tensors


EXPECTED = read(SOURCE / str(STEP))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(SOURCE, tmp_path / "ckpt")


def assert_intact(root: Path) -> None:
    checkpoint.clear_unfinished(root)
    assert [entry.name for entry in root.iterdir()] == [str(STEP)]
    assert checkpoint.damage(root / str(STEP)) is None
    actual = read(root / str(STEP))
    assert actual.keys() == EXPECTED.keys()
    for name, value in EXPECTED.items():
        assert actual[name].dtype == value.dtype
        assert torch.equal(actual[name], value)


def test_it_has_the_files_of_one_process(root: Path) -> None:
    folder = root / str(STEP)
    state, identity = read_state(folder), read_manifest(folder).weights_checksum()
    assert consolidate(root, STEP)
    assert_intact(root)
    assert {checkpoint.MODEL, checkpoint.OPTIMIZER} == set(read_manifest(folder).files)
    assert read_state(folder) == state
    assert read_manifest(folder).weights_checksum() == identity
    before = sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())
    assert not consolidate(root, STEP)
    assert before == sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_earlier_versions_have_them_already(version: str, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / version / "ckpt", tmp_path / "ckpt")
    assert not consolidate(tmp_path / "ckpt", STEP)


def test_a_kill_at_any_moment_leaves_one_of_both(root: Path) -> None:
    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(SOURCE, root)

    kills = 0
    for _ in at_every_point(prepare, lambda: consolidate(root, STEP)):
        kills += 1
        assert_intact(root)
    assert kills > 10
    assert read_manifest(root / str(STEP)).is_whole


def test_a_disk_that_refuses_from_some_operation_on(root: Path) -> None:
    refusals = 0
    while True:
        refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
        try:
            with killed_before(refusals, refusal):
                consolidate(root, STEP)
        except UserError as error:
            assert "the disk is full. The checkpoint is left as it is." in str(error)
        else:
            break
        refusals += 1
        assert_intact(root)
        shutil.rmtree(root)
        shutil.copytree(SOURCE, root)
    assert refusals > 10


def test_a_damaged_one_is_left_as_it_is(root: Path) -> None:
    (root / str(STEP) / "model-00002-of-00003.safetensors").unlink()
    message = (
        r"damaged: its file model-00002-of-00003\.safetensors is missing\. It is left as it is"
    )
    with pytest.raises(UserError, match=message):
        consolidate(root, STEP)
    assert [entry.name for entry in root.iterdir()] == [str(STEP)]
