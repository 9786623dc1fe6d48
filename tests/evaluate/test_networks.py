"""Networks that were never trained: left out of what is evaluated and picked, and named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from poa_plugin.cli import main
from poa_plugin.config.schema import Config
from poa_plugin.demo import DINOV2_WORDS
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.evaluate.run import EvaluationOptions
from poa_plugin.extraction.write import write_networks
from poa_plugin.pick.choice import series_to_pick_from
from poa_plugin.runs.results_file import add_results, read_results
from poa_plugin.runs.run import open_run
from poa_plugin.runs.trained import trained_networks
from poa_plugin.ssl import trains_elastic_student
from tests.evaluate.small_runs import swept, trained_run

REASON = "The run has no elastic student, so that only its intact network, w48_d4, was trained"
OPTIONS = EvaluationOptions(settings={"ks": (1,)}, is_sweep=True)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with DINOv2 as a configuration, in a search space of twelve networks."""
    return trained_run(tmp_path_factory.mktemp("dinov2"), *DINOV2_WORDS)


def test_which_recipes_train_elastic_students(small_config: Callable[..., Config]) -> None:
    assert trains_elastic_student(small_config())
    assert not trains_elastic_student(small_config(*DINOV2_WORDS))
    without_weight = ["dino.lambda_ie=1", "dino.koleo_loss_weight=0"]
    assert not trains_elastic_student(small_config(*without_weight))
    assert trains_elastic_student(small_config(*without_weight[:1]))
    for term in ("cross_view_elastic", "same_view", "masked_patch_elastic", "koleo_elastic"):
        words = [*DINOV2_WORDS[1:], f"loss.terms.{term}=true"]
        assert trains_elastic_student(small_config(*words)), term
    masked = [*DINOV2_WORDS[1:], "loss.terms.masked_patch_elastic=true", "ibot.loss_weight=0"]
    assert not trains_elastic_student(small_config(*masked))


def test_commands_on_a_run_without_an_elastic_student(
    dinov2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shutil.copytree(dinov2, tmp_path / "run"))
    assert main(["sweep", run, "--k", "1", "--no-latency"]) == 0
    captured = capsys.readouterr()
    assert f"WARNING: {REASON}: w24_d2, w24_d3, w24_d4, ... were never trained." in captured.err
    assert "1 network: 4 modules" in captured.out
    assert {row.network for row in read_results(tmp_path / "run/eval").rows} == {"w48_d4"}
    assert main(["eval", "knn", run, "--k", "1", "--untrained"]) == 0
    assert REASON in capsys.readouterr().err
    assert {row.network for row in read_results(tmp_path / "run/eval").rows} == {"w48_d4"}
    assert main(["eval", "knn", run, "--k", "1", "--network", "w24_d2"]) == 0
    assert f"{REASON}: w24_d2 was never trained." in capsys.readouterr().err
    assert main(["eval", "knn", run, "--k", "1", "--network", "intact"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["sweep", run, "--k", "1", "--widths", "24"]) == 2
    assert "There is nothing to evaluate." in capsys.readouterr().err
    for network, said in (("w24_d2", "w24_d2 was never trained"), ("intact", "")):
        assert main(["extract", run, "--network", network, "--to", str(tmp_path / network)]) == 0
        assert said in capsys.readouterr().err


def test_a_former_sweep_of_untrained_networks_is_not_picked_from(
    dinov2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(dinov2, tmp_path / "run")
    swept(open_run(run), OPTIONS)
    [row] = read_results(run / "eval").rows
    add_results(run / "eval", [replace(row, network="w24_d2", value=100.0)], [])
    capsys.readouterr()
    assert [entry.network for entry in series_to_pick_from(run).networks] == ["w48_d4"]
    assert f"{REASON}: w24_d2 was never trained." in capsys.readouterr().err


@pytest.mark.parametrize("fmt", ["dinov2", "timm", "poa", None])
def test_an_imported_network_of_one_size(
    dinov2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: str | None
) -> None:
    """Of weights that were not trained here it is only known what the format tells."""
    run = shutil.copytree(trained_like(dinov2, tmp_path, fmt), tmp_path / "imported")
    found = swept(open_run(run), replace(OPTIONS, widths=[24]))
    assert len(found.networks) == 3
    said = capsys.readouterr().err
    doubt = (
        "unless they had been trained elastically, only the intact network, w48_d4, was trained."
    )
    assert (doubt in said) is (fmt != "poa")


def trained_like(folder: Path, tmp_path: Path, fmt: str | None) -> Path:
    """A run as `poa import` makes it: an elastic recipe, and a checkpoint that is marked as imported."""
    run = shutil.copytree(folder, tmp_path / "copy")
    text = (run / "config.yaml").read_text()
    text = text.replace("lambda_ie: 1.0", "lambda_ie: 0.8").replace(": false", ": true")
    (run / "config.yaml").write_text(text)
    ckpt = run / "ckpt/1"
    state = json.loads((ckpt / "state.json").read_text()) | {"imported": True}
    state |= {"format": fmt} if fmt else {}
    (ckpt / "state.json").write_text(json.dumps(state))
    sums = json.loads((ckpt / "checksums.json").read_text())
    content = (ckpt / "state.json").read_bytes()
    sums["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (ckpt / "checksums.json").write_text(json.dumps(sums))
    return run


def test_a_real_import_says_where_the_images_are_missing_and_what_was_trained(
    dinov2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(dinov2)
    write_networks(run, {tmp_path / "plain": run.space.intact})
    imported = tmp_path / "imported"
    words = ["student.vit.min_width=24", "student.vit.width_step=8", "student.vit.min_depth=2"]
    words += ["student.vit.head_dim=8", "evaluation.resize_size=48", "evaluation.crop_size=48"]
    words += ["data.num_workers=0", "train.device=cpu", "dino.head_n_prototypes=[16]"]
    words += ["dino.head_hidden_dim=32", "dino.head_bottleneck_dim=16"]
    file = tmp_path / "plain/model.safetensors"
    assert main(["import", str(file), "--to", str(imported), "--config", *words]) == 0
    capsys.readouterr()
    for command in (["eval", "knn"], ["sweep"]):
        sweeps = ["--widths", "24", "--no-latency"] if command == ["sweep"] else []
        assert main([*command, str(imported), "--k", "1"]) == 2
        said = capsys.readouterr().err
        assert "Say where the images are: --data /some/folder." in said
        data = ["--data", str(dinov2.parent / "images")]
        assert main([*command, str(imported), "--k", "1", *sweeps, *data]) == 0
        assert "unless they had been trained elastically" in capsys.readouterr().err
    assert main(["eval", "knn", str(imported), "--data", "train.seed=1"]) == 2
    assert "--data takes a path" in capsys.readouterr().err


def test_networks_that_are_never_drawn(small_config: Callable[..., Config], dinov2: Path) -> None:
    """A multiplicity of 0 leaves a network out of training; the intact one is always in it."""
    subnets = [Subnet(8, depth) for depth in (1, 2, 3)]
    space = SearchSpace(subnets, [0, 1, 0], {}, lambda _: nn.Identity(), lambda _: (), 8)
    trained = trained_networks(small_config(), space, dinov2 / "ckpt/1")
    assert trained.subnets == tuple(subnets[1:])
    warning = "Some networks are never drawn in training: w8_d1 was never trained."
    assert trained.warning(subnets) == warning
    assert trained.warning(subnets[1:]) is None
