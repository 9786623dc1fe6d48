"""Exceptions that reach the command line: sentences for what a user can mend, and visible bugs."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from poa_plugin.cli import main
from poa_plugin.commands import training
from poa_plugin.errors import UserError
from poa_plugin.failures import explain
from poa_plugin.files import disk_errors, read_json, reading, writing


def system(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("One\n  and two."), "One and two."),
        (system(errno.ENOSPC), "The system refused: the disk is full."),
        (system(errno.EACCES, "/x"), "'/x' cannot be read or written: permission is denied."),
        (system(errno.EIO, "/x"), "'/x' cannot be read or written: the disk reports an error."),
        (system(errno.EXDEV, "/x"), "invalid cross-device link."),
        (BrokenPipeError(errno.EPIPE, "x"), "A process that was written to has ended."),
        (MemoryError(), "There is not enough memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
            "(2.50 GiB were",
        ),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes."
            ),
            "(80 bytes were requested)",
        ),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device"), "/dev/shm"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "A package cannot be imported"),
    ],
)
def test_sentences(
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(arguments: object) -> None:
        raise error

    monkeypatch.setattr(training, "run_train", work)
    assert main(["train", "x"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("poa: ")
    assert printed.count("\n") == 1
    assert message in printed


def test_running_out_of_memory_for_real() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert "There is not enough memory" in (explain(error.value) or "")[0]


def test_an_error_of_ours_stays_visible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def work(arguments: object) -> None:
        {}["missing"]

    monkeypatch.setattr(training, "run_train", work)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["train", "x"]) == 70
    message = capsys.readouterr().err
    assert "This is an error in poa-plugin itself (KeyError: 'missing')" in message
    assert message.count("\n") == 1
    [file] = re.findall(r"report '(.*)', which", message)
    text = Path(file).read_text()
    assert "poa train x" in text
    assert "Traceback" in text

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert main(["train", "x"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_tracebacks_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = ["networks", str(tmp_path / "nowhere.yaml")]
    assert main(["--debug", *wrong]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("POA_DEBUG", "1")
    assert main(wrong) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("POA_DEBUG", "0")
    assert main(wrong) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_reading_is_not_writing(tmp_path: Path) -> None:
    """What cannot be read elsewhere, or a pipe that broke, is not said to be a run that cannot be written."""
    run, data = tmp_path / "run", tmp_path / "data"
    for error in (
        system(errno.EACCES, str(data)),
        system(errno.ENOENT, str(data / "1.png")),
        system(errno.EIO),
        system(errno.EPIPE),
        system(errno.ESTALE),
    ):
        with pytest.raises(OSError, match=re.escape(str(error))), disk_errors(run):
            raise error


def test_writing_is_attributed_to_the_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number in (errno.EACCES, errno.ENAMETOOLONG, errno.EIO, errno.EISDIR, errno.EXDEV):
        message = pytest.raises(UserError, match=r"run/x' cannot be written: .*\. Then this\.")
        with message, disk_errors(run, "Then this."):
            raise system(number, str(run / "x"))
    with (
        pytest.raises(UserError, match="run' cannot be written: the disk is full"),
        disk_errors(run),
    ):
        raise system(errno.ENOSPC)
    with pytest.raises(UserError, match="cannot be written: you may not"), disk_errors(run / "a/b"):
        raise system(errno.EACCES, str(run))
    with (
        pytest.raises(UserError, match=r"'/to' cannot be written: there is a folder"),
        writing(run),
    ):
        raise OSError(errno.EISDIR, "x", "/from", None, "/to")
    with (
        pytest.raises(UserError, match=r"run' cannot be read: you may not read it\."),
        reading(run),
    ):
        raise system(errno.EACCES)


def test_json_that_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="it does not exist"):
        read_json(file)
    for content in (b"", b"{", b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"x.json' is damaged: it is n"):
            read_json(file)
