"""Run the README's commands as they are written: `python -m tests.readme --bin .venv/bin`.

From a clone in which `make demo` has run. `make` and `pip` are left out: they are how the clone, or the
wheel, came to be as it is. A folder of the README's own names that an earlier call left is removed first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.readme.commands import ROOT, readme_commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.readme", description=__doc__)
    parser.add_argument(
        "--bin", type=Path, default=Path(sys.executable).parent, help="the folder with poa in it"
    )
    folder = parser.parse_args().bin.absolute()
    shutil.rmtree(ROOT / "runs/readme", ignore_errors=True)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    failed = left_out = passed = 0
    for command, needs in readme_commands():
        if needs or command.startswith(("make ", "pip ")):
            left_out += 1
            print(f"left out ({needs or 'how this came to be'}): {command}", flush=True)
            continue
        began = time.perf_counter()
        ran = subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        good = ran.returncode == 0 and "Traceback" not in ran.stderr
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok' if good else 'FAILED'} {time.perf_counter() - began:6.1f} s  {command}")
        if not good:
            print(ran.stdout, ran.stderr, sep="\n", flush=True)
    print(f"{passed} passed, {failed} failed, {left_out} left out")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
