"""The command: print what moved; exit status 1 if anything did and was not written."""

from __future__ import annotations

import argparse
import sys

from tests.conftest import FAMILIES
from tests.reference_losses import TOLERANCE, compute, moved, path, read, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reference_losses", description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, help="only this backbone")
    parser.add_argument("--write", action="store_true", help="replace the files")
    arguments = parser.parse_args()
    any_moved = False
    for family in [arguments.family] if arguments.family else FAMILIES:
        lines = list(compute(family))
        is_new = not path(family).is_file()
        sentences = ["there were none"] if is_new else moved(lines, read(family))
        for sentence in sentences or [f"nothing moved by more than {TOLERANCE:g}"]:
            print(f"{family}: {sentence}", flush=True)
        any_moved |= bool(sentences)
        if arguments.write:
            write(family, lines)
    return int(any_moved and not arguments.write)


if __name__ == "__main__":
    sys.exit(main())
