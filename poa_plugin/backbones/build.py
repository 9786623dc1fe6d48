"""Building the backbone that a configuration names, and the errors of backbones as sentences."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.registry import BACKBONES


def build_backbone(config: Config) -> ElasticBackbone:
    """Build the elastic backbone that a configuration names, with weights drawn from its seed.

    It is in evaluation mode, as are the networks of `extract` and `load`: a sub-network gives the features
    of its extracted network. In training mode (`backbone.train()`) stochastic depth applies.

    Raises:
        UserError: the name is unknown, or the options contradict one another.
    """
    options = backbone_options(config)
    backbone = BACKBONES.get(config.student.arch)
    with backbone_errors(config.student.arch), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        built = cast(
            ElasticBackbone, backbone.from_options(options, config.crops.global_crops_size)
        )
    return built.eval()


def backbone_options(config: Config) -> Any:
    """Return the section of the backbone that `student.arch` names.

    Raises:
        UserError: `student.arch` is missing or names no registered backbone.
    """
    if OmegaConf.is_missing(config.student, "arch"):
        raise UserError(
            f"The key 'student.arch' is missing; known: {', '.join(BACKBONES.names())}."
        )
    BACKBONES.get(config.student.arch)
    return config.student[config.student.arch]


@contextmanager
def backbone_errors(arch: str) -> Iterator[None]:
    """Turn any exception while a backbone is built into a sentence: its options are the user's.

    Args:
        arch: its registered name.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"The backbone '{arch}' cannot be built with its options, student.{arch}: "
            f"{type(error).__name__}: {reason.rstrip('.')} ({Path(place.filename).name}, line {place.lineno})."
        ) from error
