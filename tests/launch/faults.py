"""A data set whose images take time, and faults that happen once, in jobs: `imports: [tests.launch.faults]`.

Variables of the job say what happens: `POA_TEST_IMAGE_S` seconds for each image, in all attempts before number
`POA_TEST_FAST_FROM` if that is set, `POA_TEST_CHECKPOINT_S`
seconds before a file of a checkpoint is written, and `POA_TEST_FULL_DISK`, a file: where it is missing, it is
made, and the disk is full at the checkpoint of step 8.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from poa_plugin import ranks, weights
from poa_plugin.registry import DATASETS
from tests.conftest import Blobs


class SlowBlobs(Blobs):
    """`Blobs` that are slow to read, registered as `slow_blobs`."""

    def image(self, index: int) -> Tensor:
        fast_from = int(os.environ.get("POA_TEST_FAST_FROM", "1000"))
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < fast_from:
            time.sleep(float(os.environ.get("POA_TEST_IMAGE_S", "0")))
        return super().image(index)


if "slow_blobs" not in DATASETS:
    DATASETS.register_as("slow_blobs")(SlowBlobs)


def install() -> None:
    """Make checkpoints slow, or a disk full, as the variables say."""
    seconds = float(os.environ.get("POA_TEST_CHECKPOINT_S", "0"))
    marker = os.environ.get("POA_TEST_FULL_DISK", "")
    honest = weights.save_file

    def save_file(tensors: Any, file: Path, **keywords: Any) -> Any:
        time.sleep(seconds)
        is_full = ranks.rank() == 0 and ".8.partial" in file.parts
        if marker and is_full and not Path(marker).exists():
            Path(marker).touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return honest(tensors, file, **keywords)

    if seconds or marker:
        weights.save_file = save_file


if "SLURM_JOB_ID" in os.environ:
    install()
