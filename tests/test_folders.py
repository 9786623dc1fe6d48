"""Folders that are written whole or not at all, whatever happens."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poa_plugin.errors import UserError
from poa_plugin.folders import write_folder

OLD, NEW = {"a": "old", "c": "old"}, {"a": "new", "sub/b": "new"}


def anything(folder: Path) -> None:
    """Refuse nothing."""


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str] | None:
    if not folder.exists():
        return None
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_text() for file in files}


def test_the_target_is_there_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "x" / "y" / "net"
    with write_folder(target) as partial:
        assert list(partial.glob("[!.]*")) == []
        fill(partial, NEW)
        assert not target.exists()
    assert content(target) == NEW
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_nothing_not_even_folders_above(tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), write_folder(tmp_path / "x" / "y" / "net") as partial:
            fill(partial, NEW)
            raise error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "net"
    target.mkdir(mode=0o750)
    with write_folder(target) as partial:
        fill(partial, NEW)
    assert content(target) == NEW
    assert target.stat().st_mode & 0o777 == 0o750


def test_new_folders_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with write_folder(tmp_path / "net") as partial:
            fill(partial, NEW)
    finally:
        os.umask(previous)
    assert (tmp_path / "net").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "net" / "a").stat().st_mode & 0o777 == 0o640


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path) -> None:
    target = fill(tmp_path / "net", OLD)
    with pytest.raises(UserError, match=r"net' already exists: choose"), write_folder(target):
        pass
    refused = write_folder(target, lambda folder: f"{folder.name} is mine")
    with pytest.raises(UserError, match=r"net' is not replaced: net is mine\."), refused:
        pass
    with pytest.raises(ZeroDivisionError), write_folder(target, anything) as partial:
        fill(partial, NEW)
        1 / 0  # noqa: B018
    assert content(target) == OLD
    with write_folder(target, anything) as partial:
        fill(partial, NEW)
        assert content(target) == OLD
    assert content(target) == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_what_comes_in_between_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "net"
    with pytest.raises(UserError, match="already exists"), write_folder(target) as partial:
        fill(partial, NEW)
        fill(target, OLD)
    assert content(target) == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with write_folder(tmp_path / "link") as partial:
        fill(partial, NEW)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == NEW


@pytest.mark.parametrize("force", [True, False])
def test_targets_that_are_no_folders(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cases = {
        str(tmp_path / "file"): "already exists",
        str(
            tmp_path / "file" / "x"
        ): r"file/x' cannot be written: a part of its path is a file\. N",
        str(tmp_path / "file" / "x" / "y"): "a part of its path is a file",
        str(tmp_path / ("n" * 300)): "its name is too long",
        ".": "name a folder in it, such as 'network'",
        "": "name a folder in it",
        "/": "name a folder in it, such as '/network'",
        "/proc/net_of_mine": "net_of_mine' cannot be written",
    }
    for target, message in cases.items():
        writing = write_folder(target, anything if force else None)
        with pytest.raises(UserError, match=message) as error, writing:
            pass
        assert str(error.value).endswith(".")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    ("name", "call"), [("mkdir", 1), ("chmod", 1), ("fsync", 2), ("rename", 1), ("rename", 2)]
)
def test_a_disk_that_refuses(
    tmp_path: Path, number: int, name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, original, calls = fill(tmp_path / "net", OLD), getattr(os, name), []

    def refuse(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise OSError(number, os.strerror(number))
        return original(*args, **kwargs)

    monkeypatch.setattr(os, name, refuse)
    with (
        pytest.raises(UserError, match=r"net' cannot be written: .*\. Nothing was written\.$"),
        write_folder(target, anything) as partial,
    ):
        (partial / "a").write_text("new")
    assert len(calls) >= call
    assert content(target) == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_an_empty_folder_in_one_that_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "net").mkdir()
    monkeypatch.setattr(os, "mkdir", refuse)
    message = r"you may not write there \(a new folder is first created beside it, in '"
    with pytest.raises(UserError, match=message), write_folder(tmp_path / "net"):
        pass


def test_a_disk_that_is_full_in_the_middle(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"net' cannot be written: the disk is full"),
        write_folder(tmp_path / "net") as partial,
    ):
        fill(partial, NEW)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_another_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = str(tmp_path / "weights")
    with (
        pytest.raises(UserError, match=r"weights' cannot be used: you may not write there"),
        write_folder(tmp_path / "net"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", source)


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    target = tmp_path / "net"
    with write_folder(target) as partial:
        fill(partial, NEW)
        with pytest.raises(UserError, match="Another process is writing"), write_folder(target):
            pass
    assert content(target) == NEW


KILLED = """
import os, shutil, sys
from pathlib import Path
from poa_plugin.folders import write_folder

EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "open", "shutil.rmtree"}

def write_until_killed(target, left):
    def count(event, args):
        nonlocal left
        left -= event in EVENTS
        if left < 0:
            os._exit(9)

    sys.addaudithook(count)
    with write_folder(target, lambda folder: None) as partial:
        (partial / "a").write_text("new")
        (partial / "sub").mkdir()
        (partial / "sub/b").write_text("new")
    os._exit(0)

status, operations = None, 0
while status != 0 and operations < 100:
    root = Path(sys.argv[1], str(operations))
    shutil.copytree(Path(sys.argv[1], "before"), root)
    child = os.fork()
    if child == 0:
        write_until_killed(root / "net", operations)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    operations += 1
print(operations)
"""


@pytest.mark.parametrize("there", ["old", "empty", "nothing"])
def test_killed_before_each_operation(tmp_path: Path, there: str) -> None:
    """The target is what it was or what it shall be, and the next call ends as if there had been no kill."""
    make: dict[str, Callable[[Path], object]] = {
        "old": lambda folder: fill(folder, OLD),
        "empty": Path.mkdir,
        "nothing": lambda folder: None,
    }
    before = {"old": OLD, "empty": {}, "nothing": None}[there]
    (tmp_path / "before").mkdir()
    make[there](tmp_path / "before" / "net")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    operations = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 10 < operations < 100
    for root in (tmp_path / str(i) for i in range(operations)):
        actual, aside = content(root / "net"), content(root / ".net.poa-replaced")
        assert actual in (before, NEW) or (actual is None and aside == OLD)
        if actual != NEW and there == "old":  # a call that does not replace puts the old one back
            with pytest.raises(UserError, match="already exists"), write_folder(root / "net"):
                pass
            assert content(root / "net") == OLD
        with write_folder(root / "net", anything) as partial:
            fill(partial, {"d": "newer"})
        assert content(root / "net") == {"d": "newer"}
        assert list(root.iterdir()) == [root / "net"]
    assert actual == NEW
