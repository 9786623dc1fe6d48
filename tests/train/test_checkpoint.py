"""Checkpoints: whole or not there; damage is named; nothing in them can run."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from poa_plugin.config.load import save_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.runs.run import open_run
from poa_plugin.train import checkpoint
from poa_plugin.train.integrity import checksum
from tests.train.kills import at_every_point, killed_before


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


def trained(seed: int) -> tuple[Tiny, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Tiny()
    parameters = dict(model.named_parameters())
    group = {"params": list(parameters.values()), "names": list(parameters)}
    optimizer = torch.optim.AdamW([group])
    model.linear(torch.ones(8)).sum().backward()
    optimizer.step()
    return model, optimizer


def write(root: Path, *steps: int, keep: int = 0, multiples: int = 0, seed: int = 0) -> None:
    for step in steps:
        model, optimizer = trained(seed or step)
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


def lose_manifest(folder: Path) -> None:
    (folder / checkpoint.MANIFEST).unlink()


def swap_manifest(folder: Path) -> None:
    shutil.copy(folder.parent / "1" / checkpoint.MANIFEST, folder / checkpoint.MANIFEST)


def other_run(folder: Path) -> None:
    """A file of the same step and size, of other weights."""
    write(folder.parent / "other", 3, seed=7)
    shutil.copy(folder.parent / "other/3" / checkpoint.MODEL, folder / checkpoint.MODEL)


def lose_checksums(folder: Path) -> None:
    (folder / checkpoint.CHECKSUMS).unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"model.safetensors has \d+ bytes, not \d+"),
    (flip, "optimizer.safetensors is not the one that was written"),
    (swap_file, "model.safetensors was written for step 1"),
    (swap_folder, "it was written for step 1"),
    (lose_file, "state.json is missing"),
    (lose_manifest, "manifest.json is missing"),
    (swap_manifest, "manifest.json was written for step 1"),
    (other_run, "model.safetensors is not the one that was written"),
    (lose_checksums, "checksums.json cannot be used"),
]


@pytest.mark.parametrize(("harm", "message"), DAMAGES, ids=lambda x: getattr(x, "__name__", ""))
def test_damage_is_named_and_an_earlier_one_used_when_asked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    message: str,
) -> None:
    write(tmp_path, 1, 2, 3)
    harm(tmp_path / "3")
    with pytest.raises(UserError, match=rf"'.*/3' is damaged: its? .*{message[3:]}") as actual:
        checkpoint.latest(tmp_path)
    assert f"newest intact one is '{tmp_path / '2'}'" in str(actual.value)
    assert checkpoint.latest(tmp_path, fall_back=True) == tmp_path / "2"
    assert f"WARNING: The checkpoint '{tmp_path / '3'}' is damaged" in capsys.readouterr().err


def test_no_checkpoint_is_whole(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    truncate(tmp_path / "1")
    truncate(tmp_path / "2")
    for fall_back in (False, True):
        with pytest.raises(UserError, match=r"No checkpoint under .* is intact"):
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
    manifest = json.loads((root / "2" / checkpoint.MANIFEST).read_text())
    manifest["files"] = {name: checksum(root / "2" / name) for name in manifest["files"]}
    (root / "2" / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    names = (checkpoint.STATE, checkpoint.MANIFEST)
    sums = {name: checksum(root / "2" / name) for name in names}
    (root / "2" / checkpoint.CHECKSUMS).write_text(json.dumps(sums))
    assert checkpoint.damage(root / "2") is None
    model = Tiny()
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be read"):
        checkpoint.load(root / "2", model, torch.optim.AdamW(model.parameters()))
    assert not target.exists()


def test_what_a_kill_left_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".2.partial").mkdir()
    (tmp_path / ".3.removed").mkdir()
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.latest(tmp_path) == tmp_path / "1"
    checkpoint.clear_unfinished(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("keep", [-1, 0, 1, 2])
def test_what_was_just_written_is_never_deleted(tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, keep=keep)
        assert checkpoint.latest(tmp_path) == tmp_path / str(step)
    write(tmp_path, 2, keep=keep)
    assert {2, 3} <= set(checkpoint.steps(tmp_path))


def test_damaged_ones_are_set_aside_and_the_new_one_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 2, 4, 6)
    for attempt in (1, 2):
        truncate(tmp_path / "6")
        truncate(tmp_path / "4")
        assert checkpoint.latest(tmp_path, fall_back=True) == tmp_path / "2"
        message = capsys.readouterr().err
        assert f"set aside as '6.damaged{'.2' * (attempt == 2)}'" in message
        assert checkpoint.steps(tmp_path) == [2]
        write(tmp_path, 4, 6)
    write(tmp_path, 7, keep=1)
    assert checkpoint.steps(tmp_path) == [7]
    aside = sorted(entry.name for entry in tmp_path.iterdir())
    assert aside == ["4.damaged", "4.damaged.2", "6.damaged", "6.damaged.2", "7"]


def test_only_whole_ones_count_as_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    truncate(tmp_path / "4")
    truncate(tmp_path / "3")
    write(tmp_path, 5, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 3, 4, 5]


def of_seed(folder: Path, seed: int) -> bool:
    weight = checkpoint.load_tensors(folder / checkpoint.MODEL)["linear.weight"]
    return torch.equal(weight, trained(seed)[0].linear.weight)


def test_a_kill_while_a_step_is_written_again_leaves_one_of_both(tmp_path: Path) -> None:
    """The only checkpoint there is; before anything is cleared up, and after."""
    root, written = tmp_path / "ckpt", tmp_path / "written"
    write(written, 3, seed=1)

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(written, root)

    kills, without_a_name = 0, 0
    for _ in at_every_point(prepare, lambda: write(root, 3, seed=2)):
        kills += 1
        without_a_name += not checkpoint.steps(root)
        seen = checkpoint.latest(root)
        assert seen is not None
        assert checkpoint.step_of(seen) == 3
        assert of_seed(seen, 1) or of_seed(seen, 2)
        checkpoint.clear_unfinished(root)
        assert [entry.name for entry in root.iterdir()] == ["3"]
        assert checkpoint.damage(root / "3") is None
    assert kills > 12
    assert without_a_name
    assert of_seed(root / "3", 2)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_from_some_operation_on(tmp_path: Path, number: int) -> None:
    """Cleaning up fails, too. It is a sentence, and once the disk is fixed one of both is intact."""
    root, written, refusals = tmp_path / "ckpt", tmp_path / "written", 0
    write(written, 2, 3, seed=1)
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(written, root)
        refusal = OSError(number, os.strerror(number), str(root))
        try:
            with killed_before(refusals, refusal):
                write(root, 3, seed=2)
        except UserError as error:
            assert "The checkpoint '3' cannot be written under" in str(error)
        else:
            break
        refusals += 1
        checkpoint.clear_unfinished(root)
        assert checkpoint.latest(root) == root / "3"
        assert of_seed(root / "3", 1) or of_seed(root / "3", 2)
        assert sorted(entry.name for entry in root.iterdir()) == ["2", "3"]
    assert refusals > 8


def test_a_kill_while_old_ones_are_deleted_leaves_the_newest(tmp_path: Path) -> None:
    root, written = tmp_path / "ckpt", tmp_path / "written"
    write(written, 1, 2)

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(written, root)

    newest = []
    for _ in at_every_point(prepare, lambda: write(root, 3, keep=1)):
        actual = checkpoint.latest(root)
        assert actual in (root / "2", root / "3")
        checkpoint.clear_unfinished(root)
        assert checkpoint.latest(root) == actual
        assert all(checkpoint.damage(root / str(step)) is None for step in checkpoint.steps(root))
        newest.append(checkpoint.steps(root)[-1])
    assert newest == sorted(newest)
    assert set(newest) == {2, 3}
    assert checkpoint.steps(root) == [3]


def test_a_kill_while_a_kill_is_cleared_up(tmp_path: Path) -> None:
    root, written = tmp_path / "ckpt", tmp_path / "written"
    write(written, 1, 2)
    (written / "2").rename(written / ".2.removed")
    shutil.copytree(written / "1", written / ".3.partial")
    shutil.copytree(written / "1", written / ".1.removed")

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(written, root)

    for _ in at_every_point(prepare, lambda: checkpoint.clear_unfinished(root)):
        actual = checkpoint.latest(root)
        assert actual is not None
        assert checkpoint.step_of(actual) == 2
    assert sorted(entry.name for entry in root.iterdir()) == ["1", "2"]


def test_reading_renames_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "2").rename(tmp_path / ".2.removed")
    assert checkpoint.latest(tmp_path) == tmp_path / ".2.removed"
    truncate(tmp_path / ".2.removed")
    assert checkpoint.latest(tmp_path) == tmp_path / "1"
    truncate(tmp_path / "1")
    with pytest.raises(UserError, match="No checkpoint under"):
        checkpoint.latest(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".2.removed", "1"]


def test_a_checkpoint_that_a_training_deletes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poa_plugin.train import rotation

    write(tmp_path, 1)
    compare = rotation.damage

    def overtaken(folder: Path) -> str | None:
        if folder.name == "1" and folder.is_dir():
            write(tmp_path, 2, keep=1)
        return compare(folder)

    monkeypatch.setattr(rotation, "damage", overtaken)
    assert checkpoint.latest(tmp_path) == tmp_path / "2"


@pytest.mark.parametrize("where", ["weight", "exp_avg_sq"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_checkpoint_of_what_is_not_finite(tmp_path: Path, where: str, value: float) -> None:
    write(tmp_path, 1)
    model, optimizer = trained(2)
    held = model.linear.bias if where == "weight" else optimizer.state[model.linear.bias][where]
    with torch.no_grad():
        held[3] = value
    message = "linear.bias" if where == "weight" else "linear.bias/exp_avg_sq"
    with pytest.raises(
        checkpoint.NotFiniteError, match=rf"'{message}'.* step 1 remains the newest"
    ):
        checkpoint.save(tmp_path, model, optimizer, {"step": 2}, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


@contextmanager
def somebody_else() -> Iterator[None]:
    """Lower this process to a user who may read and write what everybody may."""
    if os.geteuid() != 0:
        pytest.skip("only root can take another user's place")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that all users reach and may write into."""
    folder = tmp_path_factory.mktemp("shared")
    above = [parent for parent in folder.parents if parent.stat().st_mode & 0o005 != 0o005]
    modes = {parent: parent.stat().st_mode for parent in above}
    for parent in above:
        parent.chmod(0o755)
    folder.chmod(0o777)
    yield folder
    for parent, mode in modes.items():
        parent.chmod(mode)


@pytest.mark.parametrize(
    "closed", ["2/model.safetensors", "2/state.json", "2/checksums.json", "2", "."]
)
def test_what_may_not_be_read_is_not_damaged(shared: Path, closed: str) -> None:
    write(shared, 1, 2)
    mode = (shared / closed).stat().st_mode
    (shared / closed).chmod(0)
    for fall_back in (False, True):
        with somebody_else(), pytest.raises(checkpoint.UnreadableError) as raised:
            checkpoint.latest(shared, fall_back)
        assert str(raised.value).startswith("You may not read '")
        assert "damaged" not in str(raised.value)
    (shared / closed).chmod(mode)
    assert sorted(entry.name for entry in shared.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("closed", [".", "config.yaml", "ckpt", "ckpt/2/checksums.json"])
def test_a_run_of_somebody_else(
    shared: Path, closed: str, small_config: Callable[..., Config]
) -> None:
    save_config(small_config(), shared / "config.yaml")
    write(shared / "ckpt", 1, 2)
    (shared / closed).chmod(0)
    with somebody_else(), pytest.raises(UserError) as raised:
        open_run(shared)
    assert re.search(r"[Yy]ou may not read|ermission denied", str(raised.value))
    assert "damaged" not in str(raised.value)
    assert "not the output folder" not in str(raised.value)


def test_a_hiccup_of_the_disk_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, 2)

    def refuse(self: Path, **keywords: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(checkpoint.UnreadableError, match=r"cannot be read now: Stale file handle"):
        checkpoint.latest(tmp_path, fall_back=True)
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_an_old_one_that_cannot_be_removed_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another user's, perhaps."""
    write(tmp_path, 1, 2)
    honest = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name in "12":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return honest(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    write(tmp_path, 3, keep=1)
    message = capsys.readouterr().err
    assert "that is no longer needed cannot be removed: you may not write there" in message
    assert checkpoint.latest(tmp_path) == tmp_path / "3"
    assert checkpoint.steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "ckpt", 1)
    finally:
        os.umask(before)
    folder = tmp_path / "ckpt/1"
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666 & ~umask}
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
