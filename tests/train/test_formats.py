"""Checkpoints of each format version load, resume and are extracted; those of a newer version are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import poa_plugin as poa
from poa_plugin.cli import main
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.extraction.write import write_networks
from poa_plugin.runs.run import open_run
from poa_plugin.train import checkpoint
from poa_plugin.train.integrity import FORMAT_KEY, FORMAT_VERSION, checksum, read_state
from poa_plugin.train.loop import train
from poa_plugin.train.optim import build_optimizer
from poa_plugin.train.parallel import build_model
from poa_plugin.train.reading import open_images, read_shards
from poa_plugin.train.schedules import Schedules
from poa_plugin.train.step import train_step
from tests.train.make_checkpoint import CHECKPOINTS, STEP, TOTAL, make
from tests.train.test_loop import lines, timeless, weights

FORMATS = sorted(folder.name for folder in CHECKPOINTS.iterdir())


def copied(name: str, run: Path, *overrides: str) -> Config:
    shutil.copytree(CHECKPOINTS / name, run)
    return load_config(run / "config.yaml", [f"output_dir={run}", *overrides])


def test_there_is_one_of_each_version() -> None:
    assert sorted(f"v{version}" for version in range(FORMAT_VERSION + 1)) == FORMATS
    for name in FORMATS:
        files = [file for file in (CHECKPOINTS / name).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < 200_000
    folders = {name: CHECKPOINTS / name / "ckpt" / str(STEP) for name in FORMATS}
    versions = {
        name: json.loads((folder / checkpoint.STATE).read_text()).get(FORMAT_KEY)
        for name, folder in folders.items()
    }
    assert versions.pop("v0") is None
    assert versions == {f"v{version}": version for version in versions.values()}


def test_what_makes_them_makes_the_present_version(tmp_path: Path) -> None:
    make(tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run/ckpt") == [STEP]
    assert read_state(tmp_path / "run/ckpt" / str(STEP))[FORMAT_KEY] == FORMAT_VERSION
    expected = load_config(CHECKPOINTS / f"v{FORMAT_VERSION}/config.yaml")
    assert load_config(tmp_path / "run/config.yaml") == expected


def by_hand(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors, without the code that reads them."""
    if (folder / kind).is_file():
        return load_file(folder / kind)
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    pieces = {name: load_file(folder / name) for name in manifest["files"]}
    tensors = {}
    for name, entry in manifest["tensors"][kind.removesuffix(".safetensors")].items():
        parts = sorted(entry["parts"], key=lambda part: part["offset"])
        held = [pieces[part["file"]][name] for part in parts]
        tensors[name] = torch.cat(held) if entry["shape"] else held[0]
        assert list(tensors[name].shape) == entry["shape"]
    return tensors


def resumed_by_hand(run: Path, config: Config) -> dict[str, torch.Tensor]:
    """Return what the remaining steps make of a checkpoint's files, without the code that loads checkpoints."""
    folder = run / "ckpt" / str(STEP)
    files = {kind: by_hand(folder, kind) for kind in (checkpoint.MODEL, checkpoint.OPTIMIZER)}
    model = build_model(config)
    model.load_state_dict(files[checkpoint.MODEL])
    optimizer = build_optimizer(model.get_params_groups(), config)
    for name, parameter in checkpoint.named_parameters(optimizer):
        moments = files[checkpoint.OPTIMIZER]
        optimizer.state[parameter] = {
            key: moments.pop(f"{name}/{key}") for key in ("step", "exp_avg", "exp_avg_sq")
        }
    assert not files[checkpoint.OPTIMIZER]
    n_shards, schedules = config.train.shards, Schedules(config)
    shards = read_shards(config, open_images(config), model.mask_grid, STEP, TOTAL)
    model.train()
    for step in range(STEP, TOTAL):
        subnets = model.sample_subnets(n_shards)
        train_step(model, optimizer, islice(shards, n_shards), schedules(step), subnets)
    return model.state_dict()


@pytest.mark.parametrize("name", FORMATS)
def test_it_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """In one go, step by step through checkpoints of the present version, and by hand."""
    in_one_go = copied(name, tmp_path / "in_one_go")
    by_hand = resumed_by_hand(tmp_path / "in_one_go", in_one_go)
    assert train(in_one_go).finished
    in_pieces = copied(name, tmp_path / "in_pieces", "train.max_minutes=1e-9")
    assert sum(1 for _ in iter(lambda: train(in_pieces).finished, True)) == TOTAL - STEP - 1

    expected, actual = (weights(tmp_path / run) for run in ("in_one_go", "in_pieces"))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(value, actual[key]) for key, value in expected.items())
    assert all(torch.equal(x, expected[f"{checkpoint.MODEL}/{key}"]) for key, x in by_hand.items())
    assert timeless(lines(tmp_path / "in_one_go")) == timeless(lines(tmp_path / "in_pieces"))
    first, second = lines(tmp_path / "in_one_go")
    assert (
        len(first["subnets"]) == len(second["subnets"]) == TOTAL
    )  # half of the first's were saved


@pytest.mark.parametrize("name", FORMATS)
def test_its_networks_are_extracted(name: str, tmp_path: Path) -> None:
    run = open_run(CHECKPOINTS / name)
    assert run.step == STEP
    write_networks(run, {tmp_path / "net": "smallest"}, with_heads=True)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = run.backbone()(images, "smallest")["x_norm_clstoken"]
        actual = poa.load(tmp_path / "net")(images)["x_norm_clstoken"]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def rewrite_state(folder: Path, **values: Any) -> None:
    """Change a checkpoint's state as a version that wrote it so would have."""
    state = json.loads((folder / checkpoint.STATE).read_text()) | values
    (folder / checkpoint.STATE).write_text(json.dumps(state))
    renew_checksum(folder, checkpoint.STATE)


def renew_checksum(folder: Path, name: str) -> None:
    sums = json.loads((folder / checkpoint.CHECKSUMS).read_text())
    sums[name] = checksum(folder / name)
    (folder / checkpoint.CHECKSUMS).write_text(json.dumps(sums))


COMMANDS = {
    "train": ["train", "{}"],
    "train that may go back": ["train", "{}", "train.damaged_checkpoint=previous"],
    "extract": ["extract", "{}", "--network", "smallest", "--to", "{}/net"],
    "sweep": ["sweep", "{}", "--k", "3"],
    "knn": ["eval", "knn", "{}", "--k", "3"],
    "pick": ["pick", "{}", "--max-params", "1G"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_newer_one_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though an earlier one could be read, and though its files are others."""
    run = tmp_path / "run"
    copied("v1", run)
    folder, earlier = run / f"ckpt/{STEP}", run / f"ckpt/{STEP - 1}"
    shutil.copytree(folder, earlier)
    rewrite_state(earlier, step=STEP - 1)
    rewrite_state(folder, **{FORMAT_KEY: FORMAT_VERSION + 1})
    (folder / checkpoint.OPTIMIZER).rename(folder / "optimizer.0.safetensors")
    before = sorted(run.rglob("*"))
    assert main([word.format(run) for word in COMMANDS[command]]) == 2
    message = capsys.readouterr().err
    assert f"'{folder}' has format version {FORMAT_VERSION + 1};" in message
    assert f"reads versions up to {FORMAT_VERSION}. Upgrade poa_plugin to use it." in message
    assert "damaged" not in message
    assert sorted(run.rglob("*")) == before


def test_a_newer_one_is_not_loaded(tmp_path: Path) -> None:
    """By whoever has its path."""
    config = copied("v1", tmp_path / "run")
    folder = tmp_path / f"run/ckpt/{STEP}"
    rewrite_state(folder, **{FORMAT_KEY: FORMAT_VERSION + 1})
    model = build_model(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = build_optimizer(model.get_params_groups(), config)
    with pytest.raises(checkpoint.NewerFormatError):
        checkpoint.load(folder, model, optimizer)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("version", ["two", 0, -1, 1.5, None, True])
def test_a_version_that_is_none_is_damage(version: object, tmp_path: Path) -> None:
    copied("v1", tmp_path / "run")
    folder = tmp_path / f"run/ckpt/{STEP}"
    rewrite_state(folder, **{FORMAT_KEY: version})
    assert f"its state.json cannot be used ({FORMAT_KEY} is {version!r})" == checkpoint.damage(
        folder
    )


def test_a_state_that_is_no_object_is_damage(tmp_path: Path) -> None:
    copied("v1", tmp_path / "run")
    folder = tmp_path / f"run/ckpt/{STEP}"
    (folder / checkpoint.STATE).write_text("[3]")
    renew_checksum(folder, checkpoint.STATE)
    assert checkpoint.damage(folder) == "its state.json cannot be used (it is no JSON object)"


def test_a_version_that_a_flipped_bit_made_is_damage(tmp_path: Path) -> None:
    copied("v1", tmp_path / "run")
    file = tmp_path / f"run/ckpt/{STEP}" / checkpoint.STATE
    file.write_text(file.read_text().replace(f'"{FORMAT_KEY}": 1', f'"{FORMAT_KEY}": 9'))
    with pytest.raises(
        UserError, match=r"damaged: its file state\.json is not the one that was written"
    ):
        open_run(tmp_path / "run")


def test_a_version_without_manifests_can_tell_that_this_one_is_newer(tmp_path: Path) -> None:
    """It looks for `state.json` in `checksums.json` first; without it, it would take it for damaged."""
    copied("v2", tmp_path / "run")
    folder = tmp_path / f"run/ckpt/{STEP}"
    sums = json.loads((folder / checkpoint.CHECKSUMS).read_text())
    assert sums[checkpoint.STATE] == checksum(folder / checkpoint.STATE)
    assert json.loads((folder / checkpoint.STATE).read_text())[FORMAT_KEY] == 2


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda manifest: None,
    "KeyError: 'ranks'": lambda manifest: manifest.pop("ranks"),
    "'../x.safetensors' is no name of a piece": lambda manifest: manifest["files"].update(
        {"../x.safetensors": {"bytes": 1, "sha256": ""}}
    ),
    "'Tensor' is no type of tensors": lambda manifest: first(manifest).update(dtype="Tensor"),
    "a part in 'x.safetensors' fits no tensor": lambda manifest: first(manifest).update(
        parts=[{"file": "x.safetensors", "offset": [], "shape": []}]
    ),
}


def first(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(iter(manifest["tensors"]["model"].values()))


@pytest.mark.parametrize("reason", MANIFESTS)
def test_a_manifest_that_cannot_be_used_is_damage(reason: str, tmp_path: Path) -> None:
    copied("v2", tmp_path / "run")
    file = tmp_path / f"run/ckpt/{STEP}" / checkpoint.MANIFEST
    manifest = json.loads(file.read_text())
    MANIFESTS[reason](manifest)
    file.write_text("{" if reason == "no JSON" else json.dumps(manifest))
    renew_checksum(file.parent, checkpoint.MANIFEST)
    said = "" if reason == "no JSON" else re.escape(reason)
    with pytest.raises(UserError, match=rf"its manifest\.json cannot be used \(.*{said}"):
        open_run(tmp_path / "run")
