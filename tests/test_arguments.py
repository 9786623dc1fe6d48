"""Arguments: ranges, defaults and examples in every help, nearest names, completion."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poa_plugin.arguments import IntegerRange, Parser, RealRange, path, path_text
from poa_plugin.cli import build_parser, main
from poa_plugin.completion import SHELLS, completion_script
from poa_plugin.errors import UserError
from poa_plugin.examples import EXAMPLES
from tests.command_checks import fails

ROOT = Path(__file__).resolve().parents[1]
DEMO = str(ROOT / "configs/ssl/demo_vit.yaml")


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its sub-commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


PARSERS = {parser.prog: parser for parser in parsers(build_parser())}


@pytest.mark.parametrize("command", PARSERS)
def test_help_shows_defaults_and_examples(command: str) -> None:
    text = PARSERS[command].format_help()
    assert "examples:" in text
    assert len(EXAMPLES[command]) <= 3
    for action in PARSERS[command]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action
        is_shown = action.default is not False and action.default != argparse.SUPPRESS
        if isinstance(action.default, int | float | str) and is_shown:
            assert f"(default: {action.default})" in " ".join(text.split())


@pytest.mark.parametrize("command", [name for name in EXAMPLES if name in PARSERS])
def test_examples_are_commands(command: str) -> None:
    for line in EXAMPLES[command]:
        argv = shlex.split(line, comments=True)
        if argv[0] == "poa":
            build_parser().parse_args(argv[1:] if ">" not in argv else argv[1 : argv.index(">")])


def test_help_imports_no_torch() -> None:
    """It is there in a tenth of a second; torch alone takes more than one."""
    script = (
        "import sys\nfrom poa_plugin.cli import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'omegaconf', 'rich', 'shtab'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("poa 0.")


NUMBERS = {
    "networks --image-size": ["networks", DEMO, "--image-size"],
    "export --image-size": ["export", "x", "--to", "y", "--format", "onnx", "--image-size"],
    "eval knn --k": ["eval", "knn", "x", "--k"],
    "eval knn --temperature": ["eval", "knn", "x", "--temperature"],
    "eval knn --threads": ["eval", "knn", "x", "--threads"],
    "sweep --k": ["sweep", "x", "--k"],
    "sweep --widths": ["sweep", "x", "--widths"],
    "sweep --temperature": ["sweep", "x", "--temperature"],
    "sweep --threads": ["sweep", "x", "--threads"],
    "pick --k": ["pick", "x", "--max-params", "1M", "--k"],
    "data check --workers": ["data", "check", "x", "--workers"],
    "demo --minutes": ["demo", DEMO, "--minutes"],
}


@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_out_of_range(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("nan", "inf", "-inf", "1e30", "-1", "", "x", "9" * 5000, "1_000_000_000", " "):
        name = NUMBERS[option][-1]
        message = fails(capsys, *NUMBERS[option][:-1], f"{name}={text}")
        assert message.startswith(f"poa: {name} must be ")
        assert len(message) < 200


def test_ranges_include_their_ends() -> None:
    assert (
        IntegerRange(0, 3)("0"),
        IntegerRange(0, 3)("3"),
        RealRange(0.5, 2)("0.5"),
        RealRange(0.5, 2)("2"),
    ) == (
        0,
        3,
        0.5,
        2,
    )
    for wrong in (
        lambda: IntegerRange(0, 3)("4"),
        lambda: RealRange(0.5, 2)("2.1"),
        lambda: RealRange(0.5, 2)("0.4"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
            wrong()
    with pytest.raises(argparse.ArgumentTypeError, match="must be positive"):
        IntegerRange(1, 3)("0")


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert path("~/x") == Path("/home/me/x")
    assert path_text("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    for wrong in ("", "a\0b", "\ud800"):
        with pytest.raises(argparse.ArgumentTypeError, match="takes a path"):
            path(wrong)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "'poa' needs a command: train, plan, submit, jobs, checkpoint,"),
        ("trian", "Unknown command 'trian' of 'poa': did you mean 'train'?"),
        ("eval", "'poa eval' needs a kind: knn"),
        ("eval kn", "did you mean 'knn'?"),
        ("train", "'poa train' needs CONFIG: see 'poa train --help'"),
        ("train a=b", "The configuration file is missing"),
        (
            "train --config x.yaml",
            "'--config' is no option of 'poa train': give the CONFIG without it",
        ),
        (f"train {DEMO} --seed 3", "keys of the configuration have no dashes"),
        ("extract runs/x", "'poa extract' needs --network and --to"),
        ("extract --run runs/x --network a --to b", "give the RUN without it"),
        ("extract runs/x --netwrk a --to b", "did you mean '--network'?"),
        ("extract runs/x --network a --to b c", "'c' is one argument too many"),
        ("extract runs/x --network a --to", "--to: expected one argument"),
        ("extract runs/x --network a --to=", "--to takes a path, and got an empty one"),
        ("extract runs/x --network a --to b --branch teach", "did you mean 'teacher'?"),
        ("completion fish", "bash, zsh, tcsh"),
    ],
)
def test_wrong_words(argv: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = fails(capsys, *shlex.split(argv))
    assert message in refusal


def test_a_parser_of_its_own() -> None:
    parser = Parser(prog="tool")
    parser.add_argument("--size", type=IntegerRange(1, 5), default=3, help="of it")
    assert "--size SIZE  of it (1 to 5) (default: 3)" in parser.format_help()
    with pytest.raises(UserError, match="Unknown option '--sise' of 'tool': did you mean '--size'"):
        parser.parse_args(["--sise", "3"])


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "extract" in script
    assert (
        "--with-heads" in script or shell == "tcsh"
    )  # whose scripts complete no options of commands


COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_poa
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["poa", "ex"], ["extract", "export"]),
        (["poa", "eval", "k"], ["knn"]),
        (["poa", "extract", "run", "--net"], ["--network"]),
        (["poa", "extract", "run", "--branch", "t"], ["teacher"]),
        (["poa", "train", "my"], ["my_recipe.yaml", "my_runs"]),
        (["poa", "extract", "my_ru"], ["my_runs"]),
        (["poa", "report", "my_runs", "--to", "my_ru"], ["my_runs"]),
    ],
)
def test_the_script_completes(argv: list[str], expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(completion_script(build_parser(), "bash"))
    (tmp_path / "my_recipe.yaml").touch()
    (tmp_path / "my_runs").mkdir()
    command = ["bash", "-c", COMPLETE, "bash", str(tmp_path / "script"), *argv]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert sorted(ended.stdout.split()) == sorted(expected), ended.stderr
