"""Checkpoints: whole or not there; damage is named; nothing in them can run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


def write(root: Path, *steps: int, keep: int = 0, multiples: int = 0) -> None:
    for step in steps:
        torch.manual_seed(step)
        model = Tiny()
        parameters = dict(model.named_parameters())
        group = {"params": list(parameters.values()), "names": list(parameters)}
        optimizer = torch.optim.AdamW([group])
        model.linear(torch.ones(8)).sum().backward()
        optimizer.step()
        checkpoint.save(root, model, optimizer, {"step": step}, keep, multiples)


def test_the_newest_and_every_so_many_th_are_kept(tmp_path: Path) -> None:
    write(tmp_path, *range(1, 10), keep=2, multiples=4)
    assert checkpoint.steps(tmp_path) == [4, 8, 9]
    assert checkpoint.latest(tmp_path) == tmp_path / "9"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["4", "8", "9"]
    write(tmp_path, 9)
    assert checkpoint.damage(tmp_path / "9") is None


def truncate(folder: Path) -> None:
    file = folder / checkpoint.MODEL
    file.write_bytes(file.read_bytes()[:-9])


def flip(folder: Path) -> None:
    file = folder / checkpoint.OPTIMIZER
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def swap_file(folder: Path) -> None:
    shutil.copy(folder.parent / "1" / checkpoint.MODEL, folder / checkpoint.MODEL)


def swap_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "1", folder)


def lose_file(folder: Path) -> None:
    (folder / checkpoint.STATE).unlink()


def lose_checksums(folder: Path) -> None:
    (folder / checkpoint.CHECKSUMS).unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"model.safetensors has \d+ bytes, not \d+"),
    (flip, "optimizer.safetensors is not the one that was written"),
    (swap_file, "model.safetensors is not the one that was written"),
    (swap_folder, "it was written for step 1"),
    (lose_file, "state.json is missing"),
    (lose_checksums, "checksums.json cannot be used"),
]


@pytest.mark.parametrize(("harm", "said"), DAMAGES, ids=lambda x: getattr(x, "__name__", ""))
def test_damage_is_named_and_an_earlier_one_used_when_asked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    said: str,
) -> None:
    write(tmp_path, 1, 2, 3)
    harm(tmp_path / "3")
    with pytest.raises(UserError, match=rf"'.*/3' is damaged: its? .*{said[3:]}") as found:
        checkpoint.latest(tmp_path)
    assert f"newest whole one is '{tmp_path / '2'}'" in str(found.value)
    assert checkpoint.latest(tmp_path, fall_back=True) == tmp_path / "2"
    assert f"WARNING: The checkpoint '{tmp_path / '3'}' is damaged" in capsys.readouterr().err


def test_no_checkpoint_is_whole(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    truncate(tmp_path / "1")
    truncate(tmp_path / "2")
    for fall_back in (False, True):
        with pytest.raises(UserError, match=r"No checkpoint under .* is whole"):
            checkpoint.latest(tmp_path, fall_back)
    assert checkpoint.latest(tmp_path / "none") is None


class Bomb:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    """Also where its checksum was made to fit."""
    root, target = tmp_path / "ckpt", tmp_path / "was here"
    write(root, 1, 2)
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        (root / "2" / name).write_bytes(pickle.dumps(Bomb(target)))
    sums = {
        name: checkpoint._checksum(root / "2" / name)
        for name in (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE)
    }
    (root / "2" / checkpoint.CHECKSUMS).write_text(json.dumps(sums))
    model = Tiny()
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be read"):
        checkpoint.load(root / "2", model, torch.optim.AdamW(model.parameters()))
    assert not target.exists()


def test_what_a_kill_left_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".2.partial").mkdir()
    (tmp_path / ".3.removed").mkdir()
    assert checkpoint.steps(tmp_path) == [1]
    checkpoint.clear_unfinished(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]
