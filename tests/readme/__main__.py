"""Run the README's commands as they are written: `python -m tests.readme --bin .venv/bin`; `--docs`: the docs'.

From a clone in which `make demo` has run. `make` and `pip` are left out: they are how the clone, or the
wheel, came to be as it is. A folder of the README's own names that an earlier call left is removed first.

The pages of the docs share a folder, `build/docs`, with the recipes and the run of `make demo` in it. A block
of Python with a title is a file there; the others of a page are run together after its commands. What stands
on several pages is run once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.readme.commands import ROOT, Command, pages, python_blocks, readme_commands

DOCS = ROOT / "build/docs"
TESTED = {"python.md": "tests/test_public.py"}
"""Pages whose Python a test runs."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.readme", description=__doc__)
    parser.add_argument(
        "--bin", type=Path, default=Path(sys.executable).parent, help="the folder with poa in it"
    )
    parser.add_argument("--docs", action="store_true", help="the commands of the docs")
    arguments = parser.parse_args()
    folder = arguments.bin.absolute()
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    if arguments.docs:
        commands, place = docs_commands(), DOCS
    else:
        shutil.rmtree(ROOT / "runs/readme", ignore_errors=True)
        commands, place = readme_commands(), ROOT
    failed = left_out = passed = 0
    for command, needs in commands:
        if needs or command.startswith(("make ", "pip ")):
            left_out += 1
            print(f"left out ({needs or 'how this came to be'}): {command}", flush=True)
            continue
        began = time.perf_counter()
        ran = subprocess.run(
            command, shell=True, cwd=place, env=environment, capture_output=True, text=True
        )
        good = ran.returncode == 0 and "Traceback" not in ran.stderr
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok' if good else 'FAILED'} {time.perf_counter() - began:6.1f} s  {command}")
        if not good:
            print(ran.stdout, ran.stderr, sep="\n", flush=True)
    print(f"{passed} passed, {failed} failed, {left_out} left out")
    return 1 if failed else 0


def docs_commands() -> list[Command]:
    """Make the folder in which the docs' commands run, with the files that pages show; return the commands."""
    shutil.rmtree(DOCS, ignore_errors=True)
    (DOCS / "runs").mkdir(parents=True)
    (DOCS / "configs").symlink_to(ROOT / "configs")
    (DOCS / "runs/demo").symlink_to(ROOT / "runs/demo")
    commands: list[Command] = []
    for page in pages():
        for text, needs in readme_commands(page):
            if not any(text == command.text for command in commands):
                commands.append(Command(text, needs))
        script = ""
        for block in python_blocks(page):
            if block.title:
                (DOCS / block.title).parent.mkdir(parents=True, exist_ok=True)
                (DOCS / block.title).write_text(block.text, encoding="utf-8")
            elif not block.needs:
                script += block.text
        if script:
            name = f"python_of_{page.stem}.py"
            (DOCS / name).write_text(script, encoding="utf-8")
            commands.append(Command(f"PYTHONPATH=. python {name}", TESTED.get(page.name, "")))
    return commands


if __name__ == "__main__":
    sys.exit(main())
