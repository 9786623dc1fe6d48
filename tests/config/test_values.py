"""Values are text: what is typed for a text key is what it is, in commands, in files, and when it is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.config.load import default_config, load_config, save_config
from poa_plugin.errors import UserError

TEXTS = [
    *(
        "/data/flat #2",
        "1.10",
        "on",
        "0x10",
        "1e3",
        "2026-01-01",
        " leading",
        "a: b",
        "a=b=c",
        "{x}",
    ),
    *(
        "[y]",
        "'quoted'",
        '"',
        "é 日",
        "trailing\\",
        "$",
        "$HOME",
        "- a",
        "#c",
        "a\nb",
        "<<",
        "=",
        "&a",
    ),
    *("*a", "!!int 3", "true", "Null", "---", "...", "\u2028", "\udcff"),
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_text_is_as_it_was_typed_and_saved(text: str, tmp_path: Path) -> None:
    config = default_config(["student.arch=vit", f"output_dir={text}", f"data.path={text}"])
    assert (config.output_dir, config.data.path) == (text, text)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    "text", ["1.10", "on", "0x10", "1e3", "2026-01-01", "{x}", "[y]", "'/a #2'"]
)
def test_a_file_keeps_texts(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"student: {{arch: vit}}\noutput_dir: {text} # a comment\n")
    assert load_config(tmp_path / "c.yaml").output_dir == text.strip("'")


def test_null_home_and_other_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    overrides = ["student.arch=vit", "data.path=~/x", "output_dir=${oc.env:HOME}/${train.seed}"]
    config = default_config(overrides)
    assert (config.data.path, config.output_dir) == ("/home/me/x", "/home/me/0")
    assert default_config([*overrides, "data.path=null"]).data.path is None
    assert (
        default_config([*overrides, "output_dir=${oc.env:NO_SUCH_THING,here}"]).output_dir == "here"
    )
    assert default_config([*overrides, "output_dir=\\${x}"]).output_dir == "${x}"
    (tmp_path / "c.yaml").write_text("student: {arch: vit}\ndata: {path: ~}\n")
    assert load_config(tmp_path / "c.yaml").data.path is None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("output_dir=", "may not be empty"),
        ("data.path=", "may not be empty"),
        ("output_dir=null", "may not be null; a folder of this name is './null'"),
        ("output_dir=~no_such_user/x", "no home folder '~no_such_user'"),
        ("output_dir=${oc.env:NO_SUCH_THING}", "no environment variable 'NO_SUCH_THING'"),
        ("student.arch=${oc.env:NO_SUCH_THING}", "no environment variable 'NO_SUCH_THING'"),
        ("student.arch=${a.b}", "no key 'a.b'"),
        ("output_dir=${now:%Y}", "no resolver 'now'"),
        ("output_dir=${a.b}", "no key 'a.b'"),
        ("output_dir=${output_dir}", "refers to itself"),
        ("output_dir=a${b", "cannot be read"),
        ("output_dir=???", "stands for a value that is missing"),
        ("train.seed=${optim.base_lr}", "must stand for a whole number"),
        ("train.seed.x=1", "has no keys below it"),
    ],
)
def test_what_has_no_value_is_a_sentence(word: str, said: str) -> None:
    with pytest.raises(UserError, match="The key") as error:
        default_config(["student.arch=vit", word])
    assert said in str(error.value)


@pytest.mark.parametrize(
    "word",
    [
        f"train.seed={'9' * 350}",
        f"train.seed=-{'9' * 350}",
        f"train.seed=0x{'f' * 390}",
        f"optim.base_lr={'9' * 350}",
        f"optim.base_lr=0x{'f' * 390}",
        f"dino.head_n_prototypes=[{'9' * 350}]",
        f"train.max_minutes=0x{'f' * 390}",
    ],
    ids=range(7),
)
def test_numbers_that_no_computer_reckons_with(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it must be (null, or )?a "):
        default_config(["student.arch=vit", word])


def test_consent_in_a_file_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However it is spelled; a file that says no to it says nothing."""
    file = tmp_path / "c.yaml"
    for text, warned in (("true", True), ("Y", True), ("off", False)):
        file.write_text(f"student: {{arch: vit}}\ntrain: {{accept_changes: {text}}}\n")
        assert not load_config(file).train.accept_changes
        assert ("accept_changes is left out" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("train: {seed: 1, seed: 2}", "the key 'seed' is there twice"),
        ("x: !!python/object:os.system 1", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("train.seed: 3", "in a file sections are nested"),
        ("- a", "must hold sections, not a list"),
    ],
    ids=range(6),
)
def test_files_that_are_no_configuration(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "c.yaml", ["student.arch=vit"])
    assert said in str(error.value)
