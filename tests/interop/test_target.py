"""Where a run is put and what it is read from: checked before the long work, written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from poa_plugin.errors import UserError
from poa_plugin.interop import import_checkpoint, importer
from poa_plugin.runs.run import open_run
from poa_plugin.train import checkpoint, pieces
from tests.interop.sharded_files import branches
from tests.test_cli import fails

OVERRIDES = ["train.device=cpu", "student.vit.head_dim=8"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, tensors, _ = branches("vit")
    path = tmp_path_factory.mktemp("weights") / "file.pth"
    torch.save({"teacher": tensors["teacher"]}, path)
    return path


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the checkpoint is read: a fault is found before."""

    def read(*_: Any) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(importer, "read_checkpoint", read)


def refused(file: Path, run: Path) -> str:
    with pytest.raises(UserError) as error:
        import_checkpoint(file, run, overrides=OVERRIDES)
    return str(error.value)


def test_targets(file: Path, tmp_path: Path, unread: None) -> None:
    (tmp_path / "note").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert "it is a file, and a folder is needed" in refused(file, tmp_path / "note")
    for name in ("loop", "dangling"):
        assert "which leads nowhere" in refused(file, tmp_path / name)
    assert "lead in a circle" in refused(file, tmp_path / "loop/run")
    assert "is a file" in refused(file, tmp_path / "note/below/run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    assert "choose a new or empty folder" in refused(file, tmp_path / "full")
    assert "the current folder" in refused(file, Path())
    assert "a name in it is longer than" in refused(file, tmp_path / ("x" * 300))
    assert {path.name for path in tmp_path.iterdir()} == {"note", "full", "loop", "dangling"}


def test_sources(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/null")):
        assert "is no file, but a folder, a pipe or a device" in refused(path, run)
    for text in ("", "hello\n", "{}", "<html>"):
        (tmp_path / "file.pth").write_text(text)
        assert "it is damaged, or of another kind" in refused(tmp_path / "file.pth", run)
    assert "is a file" in refused(file / "below.pth", run)
    assert "it does not exist" in refused(tmp_path / "none.pth", run)
    assert "its name is too long" in refused(tmp_path / ("x" * 300), run)
    config = ["--config", str(tmp_path / "none.yaml")]
    said = fails(capsys, "import", str(file), "--to", str(run), *config)
    assert "There is no configuration file" in said
    assert not run.exists()


def test_a_disk_that_is_full(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pieces, "save_tensors", full)
    assert "the disk is full" in refused(file, tmp_path / "new/run")
    monkeypatch.setattr(importer, "save_config", full)
    assert "'" + str(tmp_path / "run") + "' cannot be written: the disk is full" in refused(
        file, tmp_path / "run"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_half_of_a_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is in a hidden folder until it gets its name; what a kill left there is cleared away."""
    save, seen = checkpoint.save, []

    def watched(*arguments: Any) -> None:
        save(*arguments)
        seen.append((tmp_path / "run").exists())

    monkeypatch.setattr(importer.checkpoints, "save", watched)
    partial = tmp_path / ".run.poa-partial/ckpt/0"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_text("half")
    import_checkpoint(file, tmp_path / "run", overrides=OVERRIDES)
    assert seen == [False]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "ckpt"}
    assert open_run(tmp_path / "run").config.output_dir == str(tmp_path / "run")
    monkeypatch.setattr(
        importer.checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        import_checkpoint(file, tmp_path / "new/other", overrides=OVERRIDES)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_empty_folders_and_links(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("empty", "link"):
        import_checkpoint(file, tmp_path / name, overrides=OVERRIDES)
        assert checkpoint.latest(tmp_path / name / "ckpt") is not None
    assert (tmp_path / "elsewhere/config.yaml").is_file()
