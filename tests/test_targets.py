"""Targets that cannot be written to: every command that writes says so before it works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from poa_plugin.cli import build_parser
from poa_plugin.errors import UserError
from poa_plugin.extraction.write import write_networks
from poa_plugin.runs.entries import Entry
from poa_plugin.runs.run import open_run
from poa_plugin.targets import check_entries, check_file_target, check_folder_target
from tests.command_checks import as_another_user, fails, open_folder, tree
from tests.example_results import write_sweep
from tests.report.example_runs import swept_run

ROOT = Path(__file__).resolve().parents[1]
DEMO = str(ROOT / "configs/ssl/demo_vit.yaml")


@pytest.fixture(scope="module")
def sources(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands read, none of it wrong: a run, a sweep, a network, a file of weights."""
    root = tmp_path_factory.mktemp("sources")
    run = open_run(finished_run)
    network = root / "network"
    write_networks(run, {network: run.space["smallest"]})
    return {
        "run": str(finished_run),
        "swept": str(swept_run(root / "swept")),
        "network": str(network),
        "weights": str(network / "model.safetensors"),
        "images": str(finished_run.parent / "images"),
    }


COMMANDS: dict[str, Callable[[dict[str, str], str], list[str]]] = {
    "train": lambda has, to: [
        "train",
        DEMO,
        "data.dataset=image_folder",
        f"data.path={has['images']}",
        f"output_dir={to}",
    ],
    "extract": lambda has, to: ["extract", has["run"], "--network", "w48_d2", "--to", to],
    "extract all": lambda has, to: ["extract", has["run"], "--network", "all", "--to", to],
    "export": lambda has, to: ["export", has["network"], "--format", "timm", "--to", to],
    "import": lambda has, to: ["import", has["weights"], "--to", to],
    "pick": lambda has, to: ["pick", has["swept"], "--max-params", "1G", "--to", to],
    "report": lambda has, to: ["report", has["swept"], "--to", to],
    "report page": lambda has, to: ["report", has["swept"], "--to", f"{to}/page.html"],
    "demo": lambda has, to: ["demo", DEMO, "--to", to],
}
"""Every command that takes a target, by name."""

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
"""Python's audit events of what is done to files."""

STRIDES = {"import": 12, "extract all": 16, "report": 6, "report page": 2, "pick": 2}
"""Commands that change many files, or take long, are not repeated after a kill at each change."""

Command = Callable[[str], list[str]]


@pytest.fixture(params=list(COMMANDS))
def command(request: pytest.FixtureRequest, sources: dict[str, str]) -> Command:
    """Return a function that gives a command's words for a target."""
    return lambda to: COMMANDS[request.param](sources, to)


def test_names_that_no_file_can_have(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "longer than" in fails(capsys, *command(str(tmp_path / ("n" * 300))))
    assert "longer than" in fails(capsys, *command(str(tmp_path / ("n" * 254))))
    assert "longer than" in fails(capsys, *command(str(tmp_path) + "/name" * 1000))
    assert not tree(tmp_path)


def test_something_else_is_in_the_way(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = tree(tmp_path)
    assert "file" in fails(capsys, *command(str(tmp_path / "file")))
    assert "under" in fails(capsys, *command(str(tmp_path / "file/below/it")))
    assert "nowhere" in fails(capsys, *command(str(tmp_path / "dangling")))
    fails(capsys, *command(str(tmp_path / "dangling/below")))
    fails(capsys, *command(str(tmp_path / "loop")))
    fails(capsys, *command(str(tmp_path / "loop/below")))
    assert tree(tmp_path) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_target_of_others() -> None:
    """Not by commands: another user cannot read what pytest's fixtures wrote."""
    with open_folder() as folder:
        (folder / "theirs").mkdir()
        for name in ("theirs", "theirs/below", "beside"):
            for check in (check_folder_target, check_file_target):
                target = folder / name / "page" if check is check_file_target else folder / name
                with as_another_user(), pytest.raises(UserError, match="may not write there"):
                    check(target, "--to")
        assert tree(folder) == ["theirs"]


def test_a_link_into_a_folder_of_others() -> None:
    with open_folder() as folder:
        (folder / "closed/run").mkdir(parents=True)
        (folder / "closed").chmod(0o700)
        (folder / "link").symlink_to(folder / "closed/run")
        with as_another_user(), pytest.raises(UserError, match="cannot be written: you may not"):
            check_folder_target(folder / "link", "--to")
        with as_another_user(), pytest.raises(UserError, match="cannot be written: you may not"):
            check_file_target(folder / "link", "--to")
        (folder / "mine").mkdir()
        (folder / "mine").chmod(0o777)
        (folder / "mine/results.json").symlink_to(folder / "closed/run")
        with as_another_user(), pytest.raises(UserError, match="cannot be written: you may not"):
            check_entries(folder / "mine", "--to", ["results.json"])


def test_a_read_only_disk(
    command: Command, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk(1 << 20)
    (folder / "there").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for name in ("there", "new", "new/below"):
        assert "read-only" in fails(capsys, *command(str(folder / name)))


def test_a_full_disk(
    command: Command, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk(16 << 10)
    (folder / "there").mkdir()
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    for name in ("there", "new", "new/below"):
        assert "the disk is full" in fails(capsys, *command(str(folder / name)))
    assert tree(folder) == ["filler", "there"]


@pytest.mark.parametrize("name", ["extract", "extract all", "export", "import", "report"])
def test_a_disk_that_fills_up_half_way(
    name: str,
    sources: dict[str, str],
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = disk(40 << 10)
    message = fails(capsys, *COMMANDS[name](sources, str(folder / "new")))
    assert re.search("the disk is full|the disk of .* has 0 MB left", message)
    assert not tree(folder)


@pytest.mark.parametrize(
    "name", ["extract", "extract all", "export", "import", "pick", "report", "report page"]
)
def test_a_kill_at_any_operation_leaves_nothing_half_written(
    name: str, sources: dict[str, str], tmp_path: Path
) -> None:
    """The target is not there or whole; the same command finishes it, and nothing else is left."""
    if name == "pick":
        for entry in Path(sources["run"]).iterdir():
            if entry.name != "eval":
                (tmp_path / "run").mkdir(exist_ok=True)
                (tmp_path / "run" / entry.name).symlink_to(entry)
        network = open_run(sources["run"]).space["w48_d2"].name
        entry = Entry(network, width=48, depth=2, params=1, flops=1, top1={20: 1.0})
        step = open_run(sources["run"]).step
        write_sweep(tmp_path / "run/eval", [entry], branch="teacher", step=step)
        sources = {**sources, "swept": str(tmp_path / "run")}

    def act(place: Path) -> None:
        arguments = build_parser().parse_args(COMMANDS[name](sources, str(place / "new")))
        arguments.run(arguments)

    uninterrupted, stages = tmp_path / "whole", tmp_path / "stages"
    uninterrupted.mkdir()
    stages.mkdir()
    n_changes = copies_before_changes(uninterrupted, stages, partial(act, uninterrupted))
    assert n_changes > 2
    whole = tree(uninterrupted)
    for change in range(n_changes):
        place = stages / str(change)
        left = tree(place / "new")
        assert left in (tree(uninterrupted / "new"), []) or left == [".page.html.partial"]
        if change % STRIDES.get(name, 1) == 0 and tree(place) != whole:
            act(place)
            assert tree(place) == whole


def copies_before_changes(folder: Path, copies: Path, act: Callable[[], None]) -> int:
    """Do something in a child that copies a folder before each change of files; return their number.

    A copy is what a process that is killed there leaves: what it has not written yet is in no file.
    """
    child = os.fork()
    if child == 0:
        n_changes, is_copying = 0, False

        def copy(event: str, _: object) -> None:
            nonlocal n_changes, is_copying
            if event in CHANGES and not is_copying:
                is_copying = True
                shutil.copytree(folder, copies / str(n_changes), symlinks=True)
                is_copying, n_changes = False, n_changes + 1

        try:
            sys.addaudithook(copy)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return len(list(copies.iterdir()))


@pytest.mark.parametrize(
    "argv", [("eval", "knn", "{}", "--k", "3"), ("sweep", "{}", "--k", "3"), ("report", "{}")]
)
def test_results_that_would_be_lost(
    argv: Sequence[str],
    sources: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Evaluations write into the run: a file in the way is found before the features are."""
    run = tmp_path / "run"
    run.mkdir()
    for entry in Path(sources["run"]).iterdir():
        (run / entry.name).symlink_to(entry)
    for name in ("eval", "report"):
        (run / name).unlink(missing_ok=True)
        (run / name).write_text("mine")
    assert "a file" in fails(capsys, *(word.format(run) for word in argv))
    assert (run / "eval").read_text() == (run / "report").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("metrics.jsonl", ("train", "{}")),
        ("config.yaml", ("train", DEMO, "output_dir={}")),
        ("eval/results.csv", ("eval", "knn", "{}", "--k", "3")),
        ("eval/sweep_map.png", ("sweep", "{}", "--k", "3")),
        ("report/index.html", ("report", "{}")),
    ],
)
def test_a_folder_in_the_place_of_a_file(
    name: str,
    argv: Sequence[str],
    sources: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    (run / name).mkdir(parents=True)
    for entry in Path(sources["run"]).iterdir():
        if not (run / entry.name).exists():
            (run / entry.name).symlink_to(entry)
    message = fails(capsys, *(word.format(run) for word in argv))
    assert f"{name}' already exists: it is a folder, and a file is needed" in message


def test_what_can_be_written_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "file.html").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    before = tree(tmp_path)
    for name in ("folder", "link", "new", "new/below/it", "ünï", "n" * 200):
        check_folder_target(tmp_path / name, "--to")
    check_file_target(tmp_path / "file.html", "--to")
    check_file_target(tmp_path / "new/page.html", "--to")
    assert tree(tmp_path) == before


def test_names_in_python(tmp_path: Path) -> None:
    for name in ("nul\0", "\ud800"):
        with pytest.raises(UserError, match="no file can have such a name"):
            check_folder_target(tmp_path / name, "--to")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="it is a folder, and a file is needed"):
        check_file_target(tmp_path / "folder", "--to")
