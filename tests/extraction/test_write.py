"""Writing networks of a run: whole or not at all, and over nothing but what was extracted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import poa_plugin as poa
from poa_plugin.cli import main
from poa_plugin.config.load import default_config
from poa_plugin.extraction import replace, write
from poa_plugin.extraction.write import write_all_networks, write_networks
from poa_plugin.runs import recorded, run
from poa_plugin.train.loop import train
from tests.conftest import SMALL
from tests.test_cli import fails

NETWORK = ["config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step whose space has four members."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = [
        "data.dataset=blobs",
        "train.OFFICIAL_EPOCH_LENGTH=1",
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        "student.vit.width_step=24",
        "student.vit.min_depth=3",
        "student.vit.drop_path_rate=0.3",
        f"output_dir={folder}",
    ]
    assert train(default_config([*SMALL, *words])).finished
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def step_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["poa"]["step"])


def mark(folder: Path) -> None:
    """Make an extracted network look as if it were of another step."""
    facts = json.loads((folder / "config.json").read_text())
    facts["poa"]["step"] = 99
    (folder / "config.json").write_text(json.dumps(facts))


def test_a_run_in_python(trained: Path, tmp_path: Path) -> None:
    opened = poa.open_run(str(trained))
    assert isinstance(opened, poa.Run)
    backbone = opened.backbone()
    assert not backbone.training
    images = torch.randn(2, 3, 48, 48)
    wanted = backbone(images, "intact")["x_norm_clstoken"]
    folders = write_networks(
        opened, {str(tmp_path / "a"): "intact", str(tmp_path / "b"): opened.space["w24_d3"]}
    )
    assert folders == [tmp_path / "a", tmp_path / "b"]
    found = poa.load(tmp_path / "a")(images)["x_norm_clstoken"]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(poa.UserError, match="Unknown network 'w30_d3': did you mean 'w24_d3'"):
        write_networks(opened, {tmp_path / "c": "w30_d3"})
    with pytest.raises(poa.UserError, match="branch must be teacher or student"):
        write_networks(opened, {tmp_path / "c": "intact"}, "both")
    with pytest.raises(poa.UserError, match="already exists"):
        write_networks(opened, {tmp_path / "c": "intact", tmp_path / "a": "intact"})
    with pytest.raises(poa.UserError, match="name a folder in it"):
        write_networks(opened, {"": "intact"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_force_replaces_whole_what_was_extracted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "net"
    argv = ["extract", str(trained), "--network", "smallest", "--to", str(target)]
    assert main([*argv, "--with-heads"]) == 0
    mark(target)
    said = fails(capsys, *argv)
    assert "already exists: choose another folder, or replace what 'poa extract'" in said
    assert "--force" in said
    assert step_of(target) == 99
    assert main([*argv, "--force"]) == 0
    assert step_of(target) == 1
    assert names(target) == NETWORK, "the heads of another network are gone"
    assert list(tmp_path.iterdir()) == [target]


def test_force_replaces_a_folder_of_networks(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "nets"
    argv = ["extract", str(trained), "--network", "all", "--to", str(target)]
    assert main([*argv, "--force"]) == 0
    everything = names(target)
    assert len(everything) == 8
    (target / "w24_d3").rename(target / "of_another_run")
    assert "already exists" in fails(capsys, *argv)
    assert main([*argv, "--force"]) == 0
    assert names(target) == everything
    (target / "w24_d4" / "notes.txt").write_text("mine")
    said = fails(capsys, *argv, "--force")
    assert "is not replaced: 'w24_d4/notes.txt' in it was not written by 'poa extract'" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("notes.txt", "mine", "'notes.txt' in it was not written"),
        (".hidden", "mine", "'.hidden' in it was not written"),
        ("sub/model.safetensors", "mine", "'sub' in it was not written"),
        ("config.json", "{}", "was not written by 'poa extract'"),
        ("config.json", "[]", "was not written by 'poa extract'"),
        ("config.json", "no json", "it is not JSON"),
        ("config.json", '{"poa": 3}', "was not written by 'poa extract'"),
        ("config.json", "", "it is not JSON"),
        ("config.json", None, "there is no config.json"),
    ],
)
def test_nothing_else_is_replaced(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    said: str,
) -> None:
    target = tmp_path / "net"
    write_networks(run.open_run(trained), {target: "smallest"})
    if text is None:
        (target / name).unlink()
    else:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(text)
    before = names(target)
    for network in ("smallest", "all"):
        argv = ["extract", str(trained), "--network", network, "--to", str(target), "--force"]
        sentence = fails(capsys, *argv)
        assert said in sentence
        assert "is not replaced" in sentence
    assert names(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_runs_and_folders_of_images_are_never_replaced(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "cats").mkdir(parents=True)
    for target in (trained, trained / "ckpt", tmp_path / "images", tmp_path):
        argv = ["extract", str(trained), "--network", "smallest", "--to", str(target), "--force"]
        assert "is not replaced" in fails(capsys, *argv)
    assert (tmp_path / "images" / "cats").is_dir()
    link = tmp_path / "images" / "cats" / "model.safetensors"
    link.symlink_to(trained / "config.yaml")
    assert replace.why_not_replace(link.parent) is not None


def test_all_networks_or_none(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], write.write_network

    def fail_at_the_third(folder: Path, *args: object) -> Path:
        calls.append(folder)
        if len(calls) == 3:
            raise OSError(28, os.strerror(28))
        return original(folder, *args)

    monkeypatch.setattr(write, "write_network", fail_at_the_third)
    with pytest.raises(poa.UserError, match=r"nets' cannot be written: the disk is full"):
        write_all_networks(run.open_run(trained), tmp_path / "nets")
    assert list(tmp_path.iterdir()) == []
    calls.clear()
    folders = {tmp_path / f"{i}": "smallest" for i in range(3)}
    with pytest.raises(poa.UserError, match="cannot be written: the disk is full"):
        write_networks(run.open_run(trained), folders)
    assert list(tmp_path.iterdir()) == []


def test_evaluations_are_read_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = recorded.read_results
    monkeypatch.setattr(
        recorded, "read_results", lambda folder: calls.append(folder) or original(folder)
    )
    write_all_networks(run.open_run(trained), tmp_path / "nets")
    assert len(calls) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["extract", "RUN", "--network", "small", "--to", ""],
        ["extract", "", "--network", "small", "--to", "x"],
        ["export", "RUN", "--format", "timm", "--to", ""],
        ["pick", "RUN", "--max-params", "1M", "--to", ""],
        ["report", "RUN", "--to", ""],
        ["report", "", "--to", "x"],
        ["import", "FILE", "--to", ""],
        ["demo", "CONFIG", "--to", ""],
        ["sweep", ""],
        ["eval", "knn", ""],
    ],
)
def test_an_empty_path_is_an_error(
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert "takes a path, and got an empty one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, random, signal, sys, time
from pathlib import Path

import torch
import tests.conftest  # registers the images
from poa_plugin.cli import main

torch.set_num_threads(1)
argv, target = sys.argv[1:], Path(sys.argv[-1])
argv[-1:] = [str(target), "--force"]
assert main(argv) == 0

def state(folder):
    return {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}

whole, chance = state(target), random.Random(0)
for _ in range(40):
    child = os.fork()
    if child == 0:
        while main(argv) == 0:
            pass
        os._exit(1)
    time.sleep(0.05 + 0.4 * chance.random())
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    aside = target.with_name(f".{target.name}.poa-replaced")
    assert state(target if target.exists() else aside) == whole
assert main(argv) == 0
assert state(target) == whole
assert list(target.parent.iterdir()) == [target]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_all_networks_are_replaced(trained: Path, tmp_path: Path) -> None:
    """SIGKILL at many moments: the old networks or the new ones are there, each of them whole."""
    argv = ["extract", str(trained), "--network", "all", "--to", str(tmp_path / "nets")]
    subprocess.run([sys.executable, "-c", KILLED, *argv], check=True)
