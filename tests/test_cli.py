"""The command line: what it prints, and one sentence with exit status 2 for every mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm

import poa_plugin as poa
from poa_plugin.cli import main
from poa_plugin.config.load import save_config
from poa_plugin.config.schema import Config
from poa_plugin.runs.results_file import read_results
from poa_plugin.train.loop import Outcome, train
from tests.command_checks import fails

ROOT = Path(__file__).resolve().parents[1]
VIT, DEMO = (str(ROOT / "configs/ssl" / name) for name in ("vit.yaml", "demo_vit.yaml"))
TERMS = [
    *(
        f"{kind}_{who}"
        for kind in ("cross_view", "masked_patch", "koleo")
        for who in ("intact", "elastic")
    ),
    "same_view",
]


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, which the tests here write into."""
    copy = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(finished_run, copy)
    return copy


def test_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", DEMO]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:5] == ["name", "width", "depth", "params", "FLOPs"]
    assert printed[1].split() == ["w32_d1", "32", "1", "16.5k", "1.2M", "smallest"]
    assert printed[20].split()[-1] == "intact"
    assert "20 networks" in printed[-1]
    assert main(["networks", DEMO, "--image-size", "16"]) == 0
    assert "16 x 16" in capsys.readouterr().out


@pytest.mark.parametrize("branch", ["teacher", "student"])
def test_extract_one(run: Path, tmp_path: Path, branch: str) -> None:
    argv = ["extract", str(run), "--network", "w48_d2", "--branch", branch, "--to", str(tmp_path)]
    assert main(argv) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["poa"]["branch"] == branch
    assert config["poa"]["step"] == 4
    assert poa.load(tmp_path).shape.width == 48
    stock = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert stock.num_features == 48
    assert not (tmp_path / "heads.safetensors").exists()


def test_extract_all_with_heads(run: Path, tmp_path: Path) -> None:
    import torch

    from poa_plugin.extraction.network import load_heads
    from poa_plugin.runs.run import open_run

    argv = ["extract", str(run), "--network", "all", "--with-heads", "--to", str(tmp_path)]
    assert main(argv) == 0
    assert len(list(tmp_path.glob("w*_d*/model.safetensors"))) == 20
    images = torch.randn(2, 3, 32, 32)
    opened = open_run(run)
    backbone, elastic_heads = opened.backbone(), opened.heads()
    subnet = opened.space["w48_d3"]
    heads, mask_token = load_heads(tmp_path / "w48_d3")
    assert mask_token.shape == (1, 48)
    cls = poa.load(tmp_path / "w48_d3")(images)["x_norm_clstoken"]
    [actual] = heads([cls])
    [expected] = elastic_heads([backbone(images, subnet)["x_norm_clstoken"]])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_knn_and_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "knn", str(run), "--network", "smallest", "w96_d4", "--k", "3", "5"]
    assert main([*argv, "--untrained", "--pixels", "--reference", str(run), "--threads", "1"]) == 0
    assert "w96_d4" in capsys.readouterr().out
    rows = read_results(run / "eval").rows
    argv = ["extract", str(run), "--network", "w96_d4", "--to", str(tmp_path)]
    assert main(argv) == 0
    facts = json.loads((tmp_path / "config.json").read_text())["poa"]
    assert [row["k"] for row in facts["results"]] == [3, 5]
    assert facts["run"]["name"] == "run"
    assert facts["run"]["steps"] == 4
    assert facts["data"]["dataset"] == "image_folder"
    assert facts["data"]["name"] == "images"
    assert str(run.parent) not in (tmp_path / "config.json").read_text()
    capsys.readouterr()
    kinds = {(row.network, row.kind, row.k) for row in rows}
    assert ("w32_d1", "trained", 3) in kinds
    assert ("w96_d4", "untrained", 5) in kinds
    assert ("run", "reference", 5) in kinds
    assert ("raw", "pixels", 3) in kinds
    assert all(0 <= row.value <= 100 for row in rows)
    assert main(["report", str(run)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == run / "report/index.html"
    assert "w96_d4" in page.read_text()


def test_unknown_configuration_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fails(capsys, "train", DEMO, "optim.base_rl=1")
    assert "Unknown configuration key 'optim.base_rl': did you mean 'optim.base_lr'?" in message
    message = fails(capsys, "train", DEMO, "student.vit.max_widht=96")
    assert "did you mean 'student.vit.max_width'?" in message
    (tmp_path / "c.yaml").write_text("student: {arch: vit}\nteacherr: {}\n")
    assert "did you mean 'teacher'?" in fails(capsys, "networks", str(tmp_path / "c.yaml"))


def test_unknown_names(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    message = fails(capsys, "extract", str(run), "--network", "w48_d9", "--to", str(tmp_path / "x"))
    assert "Unknown network 'w48_d9': did you mean 'w48_d" in message
    assert not (tmp_path / "x").exists()
    assert "Unknown network 'tiny'" in fails(capsys, "eval", "knn", str(run), "--network", "tiny")
    assert "did you mean 'vit'?" in fails(capsys, "train", DEMO, "student.arch=vitt")
    assert "'elvp', an unknown data set: did you mean 'elpv'?" in fails(
        capsys, "train", DEMO, "data.dataset=elvp"
    )


def test_a_folder_without_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    overrides = [f"data.path={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    message = fails(capsys, "train", VIT, "train.precision=fp32", *overrides)
    assert f"There are no images in the folder '{tmp_path}'" in message
    assert "There is no folder" in fails(
        capsys, "train", VIT, "data.path=/no/where", *overrides[1:]
    )
    assert "Say where the images are" in fails(capsys, "train", VIT)
    assert not (tmp_path / "run").exists()


def test_widths_that_the_head_dimension_does_not_divide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = fails(
        capsys, "networks", DEMO, "student.vit.min_width=40", "student.vit.width_step=8"
    )
    assert "The head dimension 16 does not divide the width 40: the nearest widths are" in message


def test_a_checkpoint_of_another_architecture(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    config = poa.load_config(run / "config.yaml", ["student.vit.max_depth=5", "optim.epochs=3"])
    saved = (run / "config.yaml").read_text()
    message = fails(capsys, "train", str(run / "config.yaml"), "student.vit.max_depth=5")
    assert "student.vit.max_depth is 4 there and 5 here" in message
    overrides = ("student.vit.max_depth=5", "train.accept_changes=true")
    message = fails(capsys, "train", str(run / "config.yaml"), *overrides)
    assert "are of another architecture" in message
    save_config(config, run / "config.yaml")
    try:
        message = fails(capsys, "eval", "knn", str(run), "--k", "3")
        assert "are of another architecture" in message
        assert "keys are missing, such as 'blocks.4." in message
    finally:
        (run / "config.yaml").write_text(saved)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.seed=one"], "train.seed"),
        (["train.seed=-1"], "must be a whole number from 0 to"),
        (["train.seed"], "not of the form key=value"),
        (["train=3"], "The key 'train' is a section: set one of seed"),
        (["loss.normalization=papper"], "did you mean 'paper'?"),
        (["train.shards=0"], "must be a whole number from 1 to"),
        (["crops.global_crops_scale=[0.9,0.2]"], "from low to high"),
        (["dino.head_n_prototypes=[]"], "a list of 1 to 64 whole numbers"),
        ([f"loss.terms.{t}=false" for t in TERMS], "nothing to optimize"),
        (["crops.local_crops_size=18"], "18 x 18 pixels do not divide into patches of 4"),
        (["imports=[no_such_package_at_all]"], "cannot be imported"),
        (["train.device=cuda", "student.vit.patch_size=5"], "do not divide into patches of 5"),
    ],
)
def test_wrong_values(
    capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert message in fails(capsys, "train", DEMO, *overrides)


def test_wrong_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no configuration file" in fails(capsys, "train", str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert "not valid YAML" in fails(capsys, "train", str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "sections" in fails(capsys, "train", str(tmp_path / "list.yaml"))
    (tmp_path / "empty.yaml").write_text("")
    assert "student.arch" in fails(capsys, "train", str(tmp_path / "empty.yaml"))
    assert "not the output folder of a run" in fails(capsys, "report", str(tmp_path))
    argv = ["extract", str(tmp_path), "--network", "all", "--to", str(tmp_path / "x")]
    assert "not the output folder of a run" in fails(capsys, *argv)
    (tmp_path / "config.yaml").write_text("student: {arch: vit}\n")
    assert "no checkpoint yet" in fails(capsys, *argv)


def test_k_that_is_too_large(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    message = fails(capsys, "eval", "knn", str(run), "--network", "smallest", "--k", "500")
    assert "k must be between 1 and the 16 training samples" in message


def test_a_users_package_registers_a_data_set(
    small_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_images.py").write_text(
        "import torch\n"
        "from poa_plugin.registry import DATASETS\n"
        "@DATASETS.register_as('my_images')\n"
        "class Mine:\n"
        "    labels, classes = None, []\n"
        "    def __init__(self, path, split, image_size): pass\n"
        "    def __len__(self): return 6\n"
        "    def image(self, index): return torch.full((3, 50, 50), index, dtype=torch.uint8)\n"
        "    def name(self, index): return str(index)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ("imports=[my_images]", "data.dataset=my_images", f"output_dir={tmp_path / 'run'}")
    short = ("optim.epochs=1", "train.OFFICIAL_EPOCH_LENGTH=1", "optim.warmup_epochs=0")
    assert train(small_config(*overrides, *short)).finished


def test_a_run_by_its_folder_goes_on_there(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was moved to; the folder that its config.yaml names is not touched."""
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    file = moved / "config.yaml"
    saved = poa.load_config(file, ["output_dir=elsewhere/run"])
    save_config(saved, file)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "moved", "optim.epochs=3", "train.accept_changes=true"]) == 0
    assert (moved / "ckpt/6").is_dir()
    assert poa.load_config(file).output_dir == "moved"
    assert not (tmp_path / "elsewhere").exists()
    assert main(["networks", "moved"]) == 0
    assert "20 networks" in capsys.readouterr().out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that training is called with, in place of training."""
    configs: list[Config] = []

    def take(config: Config) -> Outcome:
        configs.append(config)
        return Outcome(finished=True)

    monkeypatch.setattr("poa_plugin.train.loop.train", take)
    return configs


@pytest.mark.parametrize("name", ["moved", "null", "~mine", "${train.seed}", "a\\\\${b"])
@pytest.mark.parametrize("by_its_file", [True, False])
def test_a_run_goes_on_where_its_configuration_lies(
    name: str,
    by_its_file: bool,
    run: Path,
    trained: list[Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its folder is called now, unless another folder is asked for."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / name)
    given = f"./{name}" if name == "~mine" else name
    argv = ["train", f"{given}/config.yaml" if by_its_file else given]
    assert main(argv) == 0
    assert Path(trained[0].output_dir).resolve() == tmp_path / name
    assert main([*argv, "output_dir=other"]) == 0
    assert trained[1].output_dir == "other"


def test_a_recipe_that_is_called_config(
    trained: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what training writes beside it, it is a recipe."""
    shutil.copy(DEMO, tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "config.yaml"]) == 0
    assert trained[0].output_dir == "runs/demo_vit"


def test_a_current_folder_that_was_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for argv in (["train", DEMO], ["networks", DEMO], ["import", "x.pth", "--to", "run"]):
        assert "The current folder no longer exists" in fails(capsys, *argv)


def test_the_output_folder_of_a_run_is_checked_before_anything_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before the images are looked for: nothing of them is there."""
    (tmp_path / "file").touch()
    message = fails(
        capsys, "train", DEMO, "data.path=/nowhere", f"output_dir={tmp_path / 'file/run'}"
    )
    assert "lies under" in message
    assert "which is a file" in message
