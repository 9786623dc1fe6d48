"""Reading a run's images: an error of the disk or a permission is reported as a failure to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from poa_plugin.config.schema import Config
from poa_plugin.data import Dataset, build_dataset, train_shards
from poa_plugin.data.faults import BadImages
from poa_plugin.data.loader import ShardBatch
from poa_plugin.errors import UserError


def open_images(config: Config) -> Dataset:
    """Open the images to train on.

    Raises:
        UserError: the data set is unknown, has no images, or cannot be read.
    """
    with _reading(config):
        return build_dataset(config, "train")


def read_shards(
    config: Config,
    dataset: Dataset,
    mask_grid: tuple[int, int],
    start: int,
    total: int,
    bad_images: BadImages | None = None,
) -> Iterator[ShardBatch]:
    """Yield this process's batches of the steps from `start` up to `total`; see `train_shards`."""
    import torchvision.transforms.v2.functional  # noqa: F401  (here, for all worker processes at once)

    shards = train_shards(config, dataset, mask_grid, start, total, bad_images)
    with _reading(config):
        yield from shards


@contextmanager
def _reading(config: Config) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A worker process sends a traceback in place of a reason; its last line is the error.
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[-1]
        place = f"'{error.filename}'" if error.filename else f"data.path={config.data.path}"
        raise UserError(
            f"The images cannot be read: {place}: {reason}. Earlier checkpoints are intact; fix "
            f"that, and the same command resumes."
        ) from error
