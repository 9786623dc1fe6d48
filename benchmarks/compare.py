"""Steps of several checkouts of this repository, side by side in one run.

    git worktree add ../before <commit>
    python benchmarks/compare.py ../before . [--rounds 3]

Each checkout runs in a process of its own; they take turns, step by step, so that a busy machine slows all of
them alike. Printed are the medians of seconds and their ratios to the first checkout's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = ("POA w256_d8", "POA w384_d11", "DINOv2 w384_d12")


def work() -> None:
    """Take the steps that stdin asks for with the package that PYTHONPATH gives; print seconds."""
    import torch
    from step import DINO_WORDS, POA_WORDS, Stepper, peak_of_this_process, seconds

    from poa_plugin.train.loop import train_step

    torch.set_num_threads(1)
    steppers = {"POA": Stepper(POA_WORDS), "DINOv2": Stepper(DINO_WORDS)}
    for line in sys.stdin:
        kind, name = line.split()
        own = steppers[kind]
        arguments = (own.model, own.optimizer, [own.batch], own.values, [own.model.space[name]])
        print(seconds(lambda a=arguments: train_step(*a)), peak_of_this_process(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    workers = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--worker"],
            env={**os.environ, "PYTHONPATH": str(path.resolve()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in options.checkouts
    ]
    took: dict[tuple[int, str], list[float]] = {}
    for number in range(options.rounds + 1):  # the first warms up
        for kind in KINDS:
            for i, worker in enumerate(workers):
                assert worker.stdin is not None
                assert worker.stdout is not None
                print(kind, file=worker.stdin, flush=True)
                value, _ = map(float, worker.stdout.readline().split())
                if number:
                    took.setdefault((i, kind), []).append(value)
    print(f"{'':30}" + "".join(f"{kind:>24}" for kind in KINDS))
    for i, path in enumerate(options.checkouts):
        cells = []
        for kind in KINDS:
            value, first = (statistics.median(took[j, kind]) for j in (i, 0))
            cells.append(f"{value:14.2f} s {value / first:6.2f} x")
        print(f"{path!s:30}" + "".join(cells), flush=True)
    for worker in workers:
        worker.communicate("")
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
