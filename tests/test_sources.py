"""Sources that are something else, or damaged: every command that reads says what it was given."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from poa_plugin.cli import main
from poa_plugin.config import recipes
from poa_plugin.config.recipes import recipe_names, recipe_path
from poa_plugin.errors import UserError
from poa_plugin.extraction.write import write_networks
from poa_plugin.runs.run import open_run
from poa_plugin.sources import check_extracted, check_run, describe, nearest_path, recipe_file
from tests.command_checks import as_another_user, fails, open_folder
from tests.report.example_runs import swept_run

ROOT = Path(__file__).resolve().parents[1]
RUN_COMMANDS = {
    "extract": ["extract", "{}", "--network", "all", "--to", "{to}"],
    "knn": ["eval", "knn", "{}", "--k", "3"],
    "sweep": ["sweep", "{}", "--k", "3"],
    "pick": ["pick", "{}", "--max-params", "1G"],
    "report": ["report", "{}"],
}
RECIPE_COMMANDS = {
    "train": ["train", "{}"],
    "networks": ["networks", "{}"],
    "demo": ["demo", "{}", "--to", "{to}"],
}
EXPORT = {"export": ["export", "{}", "--format", "timm", "--to", "{to}"]}
DAMAGED = {
    "binary": b"\xff\xfe\x00\x01",
    "empty": b"",
    "list": b"[]",
    "numbers": b"[1, 2]",
    "null": b"null",
    "text": b'"text"',
    "object": b"{}",
    "nested": b"[" * 100_000,
}
"""Contents that no JSON file of ours has."""


@pytest.fixture(scope="module")
def folders(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, what was extracted from it, and other things."""
    root = tmp_path_factory.mktemp("folders")
    shutil.copytree(finished_run, root / "run")
    run = open_run(root / "run")
    write_networks(run, {root / "networks/w32_d1": run.space["smallest"]})
    swept_run(root / "swept")
    (root / "empty").mkdir()
    (root / "pictures").mkdir()
    (root / "pictures/1.png").write_bytes(b"no picture")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    (root / "file").write_text("text")
    return root


Command = Callable[[Path], list[str]]


def words_of(command: list[str], source: Path) -> list[str]:
    return [word.format(source, to=source.parent / "new") for word in command]


NO_RUNS = {
    "empty": "an empty folder",
    "pictures": "another folder",
    "file": "it is a file",
    "nowhere": "there is no such folder",
    "dangling": "a link to",
    "loop": "lead in a circle",
    "loop/below": "lead in a circle",
    "rnu": "(did you mean",
    "run/ckpt": "the run's folder is",
    "run/ckpt/4": "the run's folder is",
    "swept/eval": "the run's folder is",
    "networks": "give one of them",
    "networks/w32_d1": "a network that 'poa extract'",
    "networks/w32_d1/model.safetensors": "a file of weights",
    "file/below": "there is no such folder",
    "n" * 300: "name is too long",
    ".": "it holds runs",
}


@pytest.mark.parametrize("name", NO_RUNS)
@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_what_is_no_run(
    command: str, name: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, *words_of(RUN_COMMANDS[command], folders / name))
    assert NO_RUNS[name] in message
    assert not (folders / "new").exists()


NO_RECIPES = {**NO_RUNS, "file": "onfiguration", "rnu": "(did you mean", "nowhere": "There is no"}
del NO_RECIPES["networks/w32_d1/model.safetensors"], NO_RECIPES["dangling"]
del NO_RECIPES["file/below"]


@pytest.mark.parametrize("name", NO_RECIPES)
@pytest.mark.parametrize("command", RECIPE_COMMANDS)
def test_what_is_no_recipe(
    command: str, name: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, *words_of(RECIPE_COMMANDS[command], folders / name))
    assert NO_RECIPES[name] in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run", "the output folder of a run"),
        ("run/ckpt/4", "the run's folder is"),
        ("run/ckpt", "the run's folder is"),
        ("networks", "give one of them"),
        ("empty", "an empty folder"),
        ("file", "it is a file"),
        ("nowhere", "there is no such folder"),
        ("loop", "lead in a circle"),
    ],
)
def test_what_is_no_extracted_network(
    name: str, message: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, *words_of(EXPORT["export"], folders / name))


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("config.yaml", "extract"),
        ("config.yaml", "report"),
        ("eval/results.json", "report"),
        ("eval/results.json", "pick"),
        ("metrics.jsonl", "pick"),
    ],
)
def test_a_damaged_file_of_a_run(
    file: str,
    command: str,
    damage: str,
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that reads the file ends in a sentence, or does without it."""
    run = tmp_path / "run"
    shutil.copytree(folders / "swept", run)
    shutil.copytree(folders / "run/ckpt", run / "ckpt")
    shutil.copy(folders / "run/config.yaml", run)
    (run / file).write_bytes(DAMAGED[damage])
    no_pictures = "poa_plugin.report.write._pictures"  # which take a second, where nothing is wrong
    monkeypatch.setattr(no_pictures, lambda *_: {}, raising=False)
    capsys.readouterr()
    status = main(words_of(RUN_COMMANDS[command], run))
    message = capsys.readouterr().err
    assert status in (0, 2), message
    assert message.count("\n") == (status == 2)
    assert "Traceback" not in message


@pytest.mark.parametrize("damage", [*DAMAGED, "no keys", "wrong types"])
def test_a_damaged_description(
    damage: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tmp_path / "network"
    shutil.copytree(folders / "networks/w32_d1", network)
    description = json.loads((network / "config.json").read_text())
    if damage == "wrong types":
        description["poa"] = {key: ["?"] for key in description["poa"]}
    contents = {"no keys": b'{"poa": {}}', "wrong types": json.dumps(description).encode()}
    (network / "config.json").write_bytes({**DAMAGED, **contents}[damage])
    assert "config.json" in fails(capsys, *words_of(EXPORT["export"], network))


def test_damaged_weights(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = tmp_path / "network"
    shutil.copytree(folders / "networks/w32_d1", network)
    weights = network / "model.safetensors"
    intact = weights.read_bytes()
    for content in (
        b"",
        b"\xff" * 8,
        intact[: len(intact) // 2],
        intact[:100],
    ):
        weights.write_bytes(content)
        assert "model.safetensors" in fails(capsys, *words_of(EXPORT["export"], network))
    weights.unlink()
    assert "model.safetensors" in fails(capsys, *words_of(EXPORT["export"], network))


def test_a_checkpoint_that_a_training_removes(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training under way removes the newest checkpoint between the listing and the reading."""
    from poa_plugin.train import rotation

    run = tmp_path / "run"
    shutil.copytree(folders / "run", run)
    shutil.copytree(run / "ckpt/4", run / "ckpt/3")
    (run / "ckpt/3/state.json").write_text("{}")  # is damaged, and so not what is to be read
    honest, (old, new) = rotation.damage, (run / "ckpt/3", run / "ckpt/4")
    new.rename(tmp_path / "new")

    def damage(folder: Path) -> str | None:
        if old.exists():
            shutil.rmtree(old)
            (tmp_path / "new").rename(new)
        return honest(folder)

    monkeypatch.setattr(rotation, "damage", damage)
    opened = open_run(run)
    assert opened.checkpoint == new
    shutil.rmtree(new)
    with pytest.raises(UserError, match="is not there any more"):
        opened.backbone()


OTHER_SOURCES = {
    "data check": ["data", "check", "{}"],
    "a list": ["data", "check", "{}", "--dataset", "file_list"],
    "shards": ["data", "check", "{}", "--dataset", "webdataset"],
    "import": ["import", "{}", "--to", "{to}"],
    "import --config": ["import", "{weights}", "--to", "{to}", "--config", "{}"],
    "knn --reference": ["eval", "knn", "{run}", "--k", "3", "--reference", "{}"],
    "knn --data": ["eval", "knn", "{run}", "--k", "3", "--data", "{}"],
    "sweep --data": ["sweep", "{run}", "--k", "3", "--data", "{}"],
    "train data.path": ["train", "{demo}", "data.dataset=image_folder", "data.path={}"],
}
"""Every command that reads something else than a run, a recipe or a network."""


@pytest.mark.parametrize("name", ["n" * 300, "loop", "loop/below", "file/below", "nowhere", "no"])
@pytest.mark.parametrize("command", OTHER_SOURCES)
def test_what_cannot_be_looked_at(
    command: str,
    name: str,
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names that are too long, links in a circle, and `no`, which lies where one may not look."""
    stat, places = (
        os.stat,
        {
            "to": tmp_path / "new",
            "run": folders / "run",
            "weights": folders / "networks/w32_d1/model.safetensors",
            "demo": ROOT / "configs/ssl/demo_vit.yaml",
        },
    )

    def refuse(path: object, *arguments: object, **options: object) -> object:
        if str(path) == str(folders / "no"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.chdir(tmp_path)
    argv = [word.format(folders / name, **places) for word in OTHER_SOURCES[command]]
    assert str(folders / name)[:100] in fails(capsys, *argv)
    assert not (tmp_path / "new").exists()


def test_folders_of_others() -> None:
    with open_folder() as folder:
        (folder / "run").mkdir()
        (folder / "run/config.yaml").touch(mode=0o600)
        (folder / "closed/run").mkdir(parents=True)
        (folder / "closed").chmod(0o700)
        with as_another_user():
            for check in (check_run, lambda path: recipe_file(str(path), "poa train")):
                for name in ("run", "closed", "closed/run"):
                    with pytest.raises(UserError, match="you may not read it"):
                        check(folder / name)
            with pytest.raises(UserError, match="you may not read it"):
                check_extracted(folder / "closed")
            with pytest.raises(UserError, match="you may not read it"):
                open_run(folder / "closed/run")


def test_a_name_that_is_too_long_in_python(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its name is too long"):
        open_run(tmp_path / ("n" * 300))


def test_a_run_by_its_folder(folders: Path, tmp_path: Path) -> None:
    assert recipe_file(str(folders / "run"), "poa train") == folders / "run/config.yaml"
    assert "it is the output folder of a run" in describe(folders / "run")


def test_the_nearest_path(tmp_path: Path) -> None:
    (tmp_path / "configs/ssl").mkdir(parents=True)
    (tmp_path / "configs/ssl/vit.yaml").touch()
    near = f" (did you mean '{tmp_path / 'configs/ssl/vit.yaml'}'?)"
    assert nearest_path(tmp_path / "confgs/ssl/vit.yaml") == near
    assert nearest_path(tmp_path / "configs/ssl/vti.yaml") == near
    assert nearest_path(tmp_path / "unlike/anything") == ""
    assert nearest_path(tmp_path / "configs/ssl/vit.yaml/x") == ""


def test_a_bare_name_is_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in recipe_names():
        assert recipe_file(name, "poa train") == recipe_path(name)
    (tmp_path / "vit").mkdir()  # of images, say
    assert recipe_file("vit", "poa train") == recipe_path("vit")
    (tmp_path / "vit/config.yaml").write_text("student: {arch: swin}\n")
    with pytest.raises(UserError, match=r"give './vit' for the run, or '.*vit.yaml' for the rec"):
        recipe_file("vit", "poa train")
    assert recipe_file("./vit", "poa train") == Path("vit/config.yaml")
    (tmp_path / "my_run").mkdir()
    (tmp_path / "my_run/config.yaml").write_text("student: {arch: swin}\n")
    assert recipe_file("my_run", "poa train") == Path("my_run/config.yaml")
    for name in ("vti", "nothing", "my_ran"):
        with pytest.raises(UserError, match=f"There is no recipe '{name}', and no file or folder"):
            recipe_file(name, "poa train")
    with pytest.raises(UserError, match="did you mean 'vit'"):
        recipe_file("vti", "poa train")
    with pytest.raises(UserError, match=r"There is no configuration file 'vit\.yaml'"):
        recipe_file("vit.yaml", "poa train")
    assert main(["recipes", "demo_vti"]) == 2
    assert "did you mean 'demo_vit'" in capsys.readouterr().err


def test_recipes_are_listed_with_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(line.endswith(".") and len(line.split()) > 5 for line in lines)
    for name in recipe_names():
        assert main(["recipes", name]) == 0
        assert capsys.readouterr().out == recipe_path(name).read_text()


def test_missing_recipes_are_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipes, "PACKAGE", tmp_path / "site/poa_plugin")
    with pytest.raises(UserError, match="The recipes are missing"):
        recipes.recipe_folder()
