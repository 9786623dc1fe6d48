"""Steps of several checkouts of this repository, side by side in one run.

    git worktree add ../before <commit>
    python benchmarks/compare.py ../before . [--families vit swin resnet] [--precisions fp32 bf16] [--rounds 3]

Each checkout runs the steps of its own `benchmarks/step.py` in a process of its own, on one thread; they take
turns, step by step, so that a busy machine slows all of them alike. Printed are the medians of CPU seconds
and their ratios to the first checkout's: for each family and precision a POA step, averaged over two elastic
students, and a DINOv2 step of the intact network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FAMILIES = ("vit", "swin", "resnet")
PRECISIONS = ("fp32", "bf16")


def work() -> None:
    """Take the steps that stdin asks for with the package and the `step.py` that PYTHONPATH gives."""
    import step
    import torch

    torch.set_num_threads(1)
    if hasattr(step, "OVERRIDES"):
        overrides = step.OVERRIDES
    else:  # a checkout from before 2026-12
        overrides = {"POA": step.POA_WORDS, "DINOv2": step.DINO_WORDS}

    model, built = None, ""
    for line in sys.stdin:
        family, precision, method = line.split()
        if line != built:
            model = None  # first, so that no two are in memory
            model = step.Stepper([*overrides[method], f"train.precision={precision}"], family)
            built = line
        size = step.SIZES[family]
        names = size.students[1:3] if method == "POA" else (size.intact,)
        start = time.process_time()
        for name in names:
            model.step(model.model.space[name])
        print((time.process_time() - start) / len(names), flush=True)


def start(checkout: Path) -> subprocess.Popen[str]:
    """Start the process that takes a checkout's steps."""
    paths = (checkout.resolve(), checkout.resolve() / "benchmarks")
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), "--worker"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONSAFEPATH": "1",  # not the folder of this file, whose step.py is one checkout's
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def timed(worker: subprocess.Popen[str], what: str) -> float:
    """Return the CPU seconds of a step that a process takes now."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(what, file=worker.stdin, flush=True)
    return float(worker.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    workers = [start(path) for path in options.checkouts]
    print(f"{'':26}" + "".join(f"{path!s:>24}" for path in options.checkouts), flush=True)
    for family in options.families:
        for precision in options.precisions:
            for method in ("POA", "DINOv2"):
                what = f"{family} {precision} {method}"
                rounds = [
                    [timed(worker, what) for worker in workers]
                    for _ in range(options.rounds + 1)  # the first warms up
                ]
                medians = [statistics.median(column) for column in zip(*rounds[1:], strict=True)]
                cells = [f"{took:13.3f} s {took / medians[0]:6.3f} x" for took in medians]
                print(f"{what:26}" + "".join(cells), flush=True)
    for worker in workers:
        worker.communicate("")
    return None


if __name__ == "__main__":
    main()
