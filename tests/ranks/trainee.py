"""One rank of a training of seconds, in which something may happen: `python -m tests.ranks.trainee JSON`.

The JSON has the arguments of `poa train`, and faults as [rank, step, what] that happen in the forward and
backward pass of a step: `nan`, `raise`, `stop` (SIGSTOP to itself), `kill`, `term`, `interrupt`, `sleep`;
`full_disk`, at every checkpoint; or `bad_image`, in place of the image whose number the step is;
or `other_images`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from poa_plugin import ranks, weights
from poa_plugin.cli import main
from poa_plugin.data import BadImageError
from poa_plugin.ssl import POA
from tests.conftest import Blobs

SIGNALS = {
    "stop": signal.SIGSTOP,
    "kill": signal.SIGKILL,
    "term": signal.SIGTERM,
    "interrupt": signal.SIGINT,
}


def install(faults: list[tuple[int, int, str]]) -> None:
    """Make the faults happen."""
    honest = POA.forward_backward

    def faulty(self: POA, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        happening = {
            what for rank, step, what in faults if (rank, step) == (ranks.rank(), self.steps_taken)
        }
        for what in happening & SIGNALS.keys():
            os.kill(os.getpid(), SIGNALS[what])
        if "sleep" in happening:
            time.sleep(1000)
        if "raise" in happening:
            raise ValueError("a fault of the test")
        terms = honest(self, *arguments, **keywords)
        if "nan" in happening:
            terms["cross_view_intact_local"] = terms["cross_view_intact_local"] * float("nan")
        return terms

    POA.forward_backward = faulty  # type: ignore[method-assign]
    if any(what == "full_disk" and rank == own_rank() for rank, _, what in faults):

        def refuse(tensors: object, file: Path, **keywords: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

        weights.save_file = refuse
    if any((rank, what) == (own_rank(), "other_images") for rank, _, what in faults):
        Blobs.name = lambda self, index: f"other{index}"  # type: ignore[method-assign]
    bad = {step for rank, step, what in faults if (rank, what) == (own_rank(), "bad_image")}
    read = Blobs.image

    def image(self: Blobs, index: int) -> torch.Tensor:
        if index in bad:
            raise BadImageError(str(index), "corrupt", "it is one of the test's")
        return read(self, index)

    Blobs.image = image  # type: ignore[method-assign]


def own_rank() -> int:
    """Return this process's rank, before it has joined the others, too."""
    return int(os.environ["RANK"])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    install([tuple(fault) for fault in given["faults"]])
    sys.exit(main(["train", *given["arguments"]]))
