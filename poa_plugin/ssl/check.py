"""Checks of what only a built model tells, on the meta device: nothing is allocated, read or written."""

from __future__ import annotations

import torch

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.building import backbone_errors
from poa_plugin.config.schema import Config
from poa_plugin.device import resolve_device
from poa_plugin.errors import UserError
from poa_plugin.memory import check_memory
from poa_plugin.registry import BACKBONES
from poa_plugin.ssl.heads import MultiHead
from poa_plugin.ssl.poa import build_backbone, head_options

BYTES_PER_PARAMETER = 20
"""Float32 weights of student and teacher, gradients, and the two moments of AdamW."""


def check_model(config: Config) -> None:
    """Check that a configuration's model can be built and trained, before anything is built.

    Raises:
        UserError: the options of the backbone contradict one another or the sizes of crops, no patch can be
            masked, or the weights do not fit into memory.
    """
    try:
        with torch.device("meta"):
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
    check_memory(
        BYTES_PER_PARAMETER * n_parameters,
        f"Training {n_parameters:,} parameters needs",
        f"lower the widths and depths of student.{config.student.arch}, dino.head_n_prototypes or "
        f"dino.head_hidden_dim",
        resolve_device(config.train.device),
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
    if masked and min(grid) < 2:
        raise UserError(
            f"The key 'crops.global_crops_size' is {crops.global_crops_size}, a grid of {grid[0]} x {grid[1]} "
            f"patches, too small to mask any: enlarge it, or set ibot.loss_weight=0."
        )
