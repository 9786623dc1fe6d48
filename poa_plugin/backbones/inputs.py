"""Checks of a network's inputs. They are skipped while tracing, so an exported graph has none of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poa_plugin.errors import UserError


def check_images(images: Any, in_chans: int, dtype: torch.dtype) -> None:
    """Check that images are a floating-point tensor (B, in_chans, H, W); a batch may be empty.

    Args:
        images: the network's input.
        in_chans: channels that it takes.
        dtype: of its weights. Under autocast images may have another type.

    Raises:
        UserError: they are something else.
    """
    if torch.jit.is_tracing():
        return
    expected = f"this network takes a floating-point tensor (B, {in_chans}, H, W)"
    if not isinstance(images, Tensor):
        raise UserError(f"The images are of type {type(images).__name__}: {expected}.")
    shape = tuple(images.shape)
    if images.dim() != 4 or shape[1] != in_chans or 0 in shape[2:]:
        hint = (
            ", such as images.unsqueeze(0)" if shape[:1] == (in_chans,) and len(shape) == 3 else ""
        )
        raise UserError(f"The images have the shape {shape}: {expected}{hint}.")
    if images.dtype == dtype:
        return
    if not images.is_floating_point():
        raise UserError(
            f"The images are of type {images.dtype}: {expected}; scale them to 0..1 and normalize them."
        )
    device = images.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not autocast or images.dtype == torch.float64:
        raise UserError(
            f"The images are of type {images.dtype}, and the network's weights of {dtype}: convert one of "
            f"them, such as images.to({dtype})."
        )


def check_masks(masks: Any, batch: int, grid: tuple[int, int]) -> None:
    """Check that masks are a (batch, rows * columns) tensor of booleans.

    Args:
        masks: the network's input.
        batch: number of images.
        grid: rows and columns of patches that can be masked.

    Raises:
        UserError: they are something else.
    """
    expected = (batch, grid[0] * grid[1])
    if isinstance(masks, Tensor) and masks.dtype == torch.bool and tuple(masks.shape) == expected:
        return
    kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
    shape = f" and of shape {tuple(masks.shape)}" if isinstance(masks, Tensor) else ""
    raise UserError(
        f"The masks are of type {kind}{shape}: {batch} images with {grid[0]} x {grid[1]} patches need a "
        f"tensor of torch.bool and of shape {expected}."
    )
