"""The command: one line for each case; exit status 1 if any exceeds its tolerance."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import poa_plugin.builtin  # noqa: F401
from poa_plugin.registry import BACKBONES
from tests.ssl.outputs import ONE_CHUNK

from .backbones import backbone_cases
from .golden import Case, Golden, guarded
from .parts import part_cases
from .steps import step_cases


def cases(folder: Path, families: list[str], chunk: int) -> Iterator[Case]:
    """Yield every case of a folder; heads are computed in chunks of prototypes."""
    golden = Golden(folder)
    for family in families:
        yield from guarded(f"{family} backbone", backbone_cases(golden, family))
        yield from step_cases(golden, family, chunk)
    yield from guarded("parts", part_cases(golden, chunk))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of golden numbers")
    parser.add_argument("--family", choices=BACKBONES.names(), help="only this backbone")
    parser.add_argument(
        "--chunk",
        type=int,
        default=ONE_CHUNK,
        metavar="N",
        help="prototypes at a time; default: all",
    )
    arguments = parser.parse_args(argv)
    if not any(arguments.folder.glob("*_meta.json")):
        parser.error(f"'{arguments.folder}' holds no golden numbers: no *_meta.json is there")
    torch.set_num_threads(1)  # small tensors: threads only wait for one another
    families = [arguments.family] if arguments.family else BACKBONES.names()
    found = []
    for case in cases(arguments.folder, families, arguments.chunk):
        print(case.line, flush=True)
        found.append(case)
    failed, absent = sum(case.failed for case in found), sum(case.absent for case in found)
    print(f"{len(found) - failed - absent} passed, {failed} failed, {absent} absent")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
