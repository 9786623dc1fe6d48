"""Run `poa` and SIGKILL it within a step: `python -m tests.train.killed_in_step STEP PASSES train ...`.

The process ends right after so many backward passes of the step: two of each shard, the intact and the elastic
student's, unless students are joint.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

import tests.conftest  # noqa: F401  (registers the images)
from poa_plugin.cli import main
from poa_plugin.ssl import POA


def kill_after(step: int, passes: int) -> None:
    """Have this process killed after so many backward passes of a step."""
    forward_backward, backward = POA.forward_backward, torch.Tensor.backward
    steps_taken = n_passes = 0

    def noting(self: POA, *arguments: Any, **options: Any) -> Any:
        nonlocal steps_taken, n_passes
        steps_taken, n_passes = self.steps_taken, 0
        return forward_backward(self, *arguments, **options)

    def counting(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
        nonlocal n_passes
        backward(self, *arguments, **options)
        n_passes += 1
        if (steps_taken, n_passes) == (step, passes):
            os.kill(os.getpid(), signal.SIGKILL)

    POA.forward_backward = noting  # type: ignore[method-assign]
    torch.Tensor.backward = counting  # type: ignore[method-assign]


if __name__ == "__main__":
    kill_after(int(sys.argv[1]), int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
