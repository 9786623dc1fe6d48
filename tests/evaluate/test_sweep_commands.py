"""`poa sweep` and `poa pick` from a run's folder to a written network."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import poa_plugin as poa
from poa_plugin.cli import main

DEMO = str(Path(__file__).resolve().parents[2] / "configs/ssl/demo_vit.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on two kinds of pictures, which lie beside it."""
    root = tmp_path_factory.mktemp("commands")
    for split, kind, i in ((s, k, i) for s in ("train", "val") for k in range(2) for i in range(4)):
        file = root / "images" / split / f"kind{kind}/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 5 + 60 * kind + i).save(file)
    words = ["data.dataset=image_folder", f"data.path={root / 'images'}", "optim.epochs=1"]
    words += [f"output_dir={root / 'run'}", "train.batch_size_per_shard=4", "train.threads=1"]
    words += ["train.OFFICIAL_EPOCH_LENGTH=1", "optim.warmup_epochs=0"]
    words += ["student.vit.max_width=48", "student.vit.max_depth=2"]
    assert main(["train", DEMO, *words]) == 0
    return root / "run"


def says(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    said = capsys.readouterr().err
    assert said.startswith("poa: ")
    assert said.count("\n") == 1
    return said


def test_from_a_run_to_a_network(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    said = fails(capsys, "pick", str(run), "--max-params", "1M")
    assert f"has no sweep yet: run 'poa sweep {run}' first." in said
    printed = says(capsys, "sweep", str(run), "--eval", "knn", "--k", "1", "3", "--threads", "1")
    assert "4 networks: 4 modules run for each image in place of 6 (0.67)." in printed
    assert "of 4 networks; * no network with as few parameters is as accurate at k = 3" in printed
    for name in ("results.csv", "results.json", "sweep_pareto.png", "sweep_map.png"):
        assert str(run / "eval" / name) in printed
        assert (run / "eval" / name).is_file()
    with (run / "eval/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for metric, most in (("latency_ms", 1e4), ("top1_k3", 100)):
        values = {row["network"]: float(row["value"]) for row in rows if row["metric"] == metric}
        assert set(values) == {"w32_d1", "w32_d2", "w48_d1", "w48_d2"}
        assert all(0 <= value <= most for value in values.values())
    [size] = {row["params"] for row in rows if row["network"] == "w32_d1"}

    words = ("--max-params", size, "--max-flops", "1e9")
    printed = says(capsys, "pick", str(run), *words, "--k", "1", "--to", str(tmp_path / "picked"))
    assert printed.startswith("w32_d1 (smallest): 16.5k parameters, 1.2M FLOPs, ")
    assert f"Wrote it to '{tmp_path / 'picked'}'." in printed
    assert poa.load(tmp_path / "picked").shape.width == 32
    origin = json.loads((tmp_path / "picked/config.json").read_text())["poa"]
    assert (origin["network"], origin["branch"]) == ("w32_d1", "teacher")

    said = fails(capsys, "pick", str(run), "--max-params", "10k")
    assert "No network fits: the nearest is w32_d1, which has 16.5k parameters where 10k" in said
    assert "--max-params is 'few'" in fails(capsys, "pick", str(run), "--max-params", "few")
    assert "of the 4 networks" in says(capsys, "pick", str(run))
    assert "it has k = 1, 3." in fails(capsys, "pick", str(run), "--max-flops", "1G", "--k", "2")


def test_a_run_that_was_trained_on_since_its_sweep(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(other / "eval", ignore_errors=True)
    argv = ("sweep", str(other), "--widths", "32", "--k", "1", "--threads", "1", "--no-latency")
    says(capsys, *argv, "--branch", "student")
    limit = ("--max-params", "1M")
    assert "latency of 2 of 2 networks" in fails(
        capsys, "pick", str(other), "--max-latency-ms", "9"
    )
    says(capsys, "pick", str(other), *limit, "--to", str(tmp_path / "picked"))
    origin = json.loads((tmp_path / "picked/config.json").read_text())["poa"]
    assert origin["branch"] == "student"
    words = (f"output_dir={other}", "optim.epochs=2", "train.accept_changes=true")
    assert main(["train", str(other / "config.yaml"), *words]) == 0
    picked = (*limit, "--to", str(tmp_path / "again"))
    said = fails(capsys, "pick", str(other), *picked)
    assert "The sweep is of step 1, and the newest checkpoint of" in said
    assert not (tmp_path / "again").exists()
    assert says(capsys, "pick", str(other), *limit).startswith("w32_d")
    assert "Starting the sweep anew: step was 1 and is 2" in says(capsys, *argv)


def test_a_sweep_of_other_weights_or_of_unknown_ones(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(other / "eval", ignore_errors=True)
    says(capsys, "sweep", str(other), "--k", "1", "--threads", "1", "--no-latency")
    file = other / "eval/results.json"
    results = json.loads(file.read_text())
    [conditions] = results["conditions"].values()
    picked = ("pick", str(other), "--to", str(tmp_path / "picked"))
    conditions["weights"] = "0" * 64
    file.write_text(json.dumps(results))
    assert "is of other weights than those of" in fails(capsys, *picked)
    for row in results["rows"]:
        row |= {"branch": "", "step": 0}
    file.write_text(json.dumps(results))
    assert "does not say of which step and branch it is" in fails(capsys, *picked)
    assert not (tmp_path / "picked").exists()


def test_wrong_words(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    assert "--memory is 'much'" in fails(capsys, "sweep", str(run), "--memory", "much")
    assert "is not the output folder of a run" in fails(capsys, "sweep", str(tmp_path))
    assert "the widths are 32, 48" in fails(capsys, "sweep", str(run), "--widths", "64")
    assert "between 1 and the 8 training" in fails(capsys, "sweep", str(run), "--k", "9")
    (tmp_path / "images/train").mkdir(parents=True)
    argv = ("sweep", str(run), "--k", "1", "--data", str(tmp_path / "images"))
    assert str(tmp_path / "images") in fails(capsys, *argv)
    for split in ("train", "val"):
        (tmp_path / "flat" / split).mkdir(parents=True)
        Image.effect_noise((40, 40), 9).save(tmp_path / "flat" / split / "x.png")
    argv = ("sweep", str(run), "--k", "1", "--data", str(tmp_path / "flat"))
    assert "'image_folder' has no labels" in fails(capsys, *argv)
    assert "results.json' cannot be read" in _damaged(capsys, run, tmp_path)
    assert "is not the output folder of a run" in fails(
        capsys, "pick", str(tmp_path), "--max-params", "1M"
    )


def _damaged(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> str:
    other = shutil.copytree(run, tmp_path / "damaged")
    (other / "eval").mkdir(exist_ok=True)
    (other / "eval/results.json").write_text("{")
    return fails(capsys, "pick", str(other), "--max-params", "1M")
