"""Whether an exported network gives the features of the one that it was made of."""

from __future__ import annotations

import torch
from torch import Tensor

from poa_plugin.errors import UserError

TOLERANCE = 1e-4
"""How far features may be apart, as a share of the largest where that is above one."""


def noise(batch: int, height: int, width: int) -> Tensor:
    """Return (B, 3, H, W) images to compare on, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator)


def difference(exported: Tensor, wanted: Tensor, what: str, limits: str = "") -> float:
    """Return the largest difference of two tensors.

    Args:
        exported, wanted: of the exported and of the original network.
        what: begins the sentence, such as `timm's features`.
        limits: a known reason for which they may differ.

    Raises:
        UserError: they are of other shapes, or further apart than `TOLERANCE`.
    """
    if exported.shape != wanted.shape:
        raise UserError(
            f"{what} are {tuple(exported.shape)}, the network's {tuple(wanted.shape)}; nothing was written."
        )
    apart = float((exported - wanted).abs().max())
    allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not apart <= allowed:
        why = f" ({limits.rstrip('.')})" if limits else ""
        raise UserError(
            f"{what} are {apart:.2g} away from the network's, where {allowed:.2g} are allowed{why}; "
            f"nothing was written."
        )
    return apart


def closeness(apart: float) -> str:
    """Return a difference as a part of a sentence."""
    return f"within {apart:.1g}" if apart else "exactly"
