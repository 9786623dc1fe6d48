"""Checks that need a built model, on the meta device: nothing is allocated, read or written."""

from __future__ import annotations

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import backbone_errors, build_backbone
from poa_plugin.config.schema import Config
from poa_plugin.device import available_cores, on_meta, resolve_device
from poa_plugin.errors import UserError
from poa_plugin.memory import check_memory
from poa_plugin.registry import BACKBONES
from poa_plugin.ssl.heads import MultiHead, head_options
from poa_plugin.ssl.memory import BYTES_PER_PARAMETER, least_device_bytes, waiting_crops

THREADS_PER_CORE = 16
"""Far more than are useful."""


def check_model(config: Config, fits: bool = True) -> None:
    """Check that a configuration's model can be built and trained, before anything is built.

    Args:
        config: a resolved configuration.
        fits: whether this machine's memory must suffice, too.

    Raises:
        UserError: the options of the backbone contradict one another or the sizes of crops, no patch can be
            masked, or the weights do not fit into memory.
    """
    try:
        with on_meta():
            backbone = build_backbone(config)
            with backbone_errors(config.student.arch):
                width = backbone.feature_width(backbone.space.intact)
            heads = MultiHead(width, **head_options(config))
    except UserError:
        if BACKBONES.get(config.student.arch).__module__.startswith("poa_plugin."):
            raise
        return  # another package's may not be for the meta device: it is built for training, and fails there
    _check_sizes(backbone, config)
    n_parameters = sum(p.numel() for module in (backbone, heads) for p in module.parameters())
    _check_threads(config.train.threads)
    if fits:
        _check_memory(config, n_parameters)


def _check_memory(config: Config, n_parameters: int) -> None:
    """Refuse what cannot fit, by what is known without running a step."""
    device = resolve_device(config.train.device)
    check_memory(
        BYTES_PER_PARAMETER * n_parameters,
        f"Training {n_parameters:,} parameters needs at least",
        f"lower the widths and depths of student.{config.student.arch}, dino.head_n_prototypes or "
        f"dino.head_hidden_dim",
        device,
    )
    on_device = least_device_bytes(config, n_parameters)
    check_memory(
        on_device,
        f"A shard of {config.train.batch_size_per_shard} images needs at least",
        "lower train.batch_size_per_shard or the sizes and number of crops; 'poa plan' counts a whole step",
        device,
    )
    waiting = waiting_crops(config, config.train.shards)
    check_memory(
        waiting + (on_device if device.type == "cpu" else 0),
        f"A step of {config.train.shards} x {config.train.batch_size_per_shard} images, whose crops wait in "
        f"host memory, needs at least",
        "lower train.shards, train.batch_size_per_shard or the sizes and number of crops",
    )


def _check_threads(threads: int | None) -> None:
    """Refuse threads that only take memory: OpenMP ends the process where it cannot start them."""
    most = THREADS_PER_CORE * available_cores()
    if threads is not None and threads > most:
        raise UserError(
            f"The key 'train.threads' is {threads}: this process may use {available_cores()} cores, for which "
            f"{most} threads are the most."
        )


def _check_sizes(backbone: ElasticBackbone, config: Config) -> None:
    """Check the sizes of crops, and of the images of an evaluation, against the backbone."""
    crops = config.crops
    sizes = {"evaluation.crop_size": config.evaluation.crop_size}
    if crops.local_crops_number:
        sizes = {"crops.local_crops_size": crops.local_crops_size, **sizes}
    for key, size in sizes.items():
        try:
            with backbone_errors(config.student.arch):
                backbone.check_image_size(size)
        except UserError as error:
            raise UserError(
                f"The key '{key}' is {size}: {str(error)[0].lower()}{str(error)[1:]}"
            ) from error
    with backbone_errors(config.student.arch):
        grid = backbone.mask_grid(crops.global_crops_size)
    terms = config.loss.terms
    masked = config.ibot.loss_weight > 0 and (
        terms.masked_patch_intact or terms.masked_patch_elastic
    )
    most = config.ibot.mask_ratio_min_max[1]
    if masked and (min(grid) < 2 or int(grid[0] * grid[1] * most) == 0):
        raise UserError(
            f"The key 'ibot.mask_ratio_min_max' ends at {most:g}, and a global crop of "
            f"{crops.global_crops_size} pixels is a grid of {grid[0]} x {grid[1]} patches: none can be masked; "
            f"raise one of them, or set ibot.loss_weight=0."
        )
