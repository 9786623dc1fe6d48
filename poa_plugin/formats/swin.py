"""How timm builds the Swin transformers of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poa_plugin.backbones.swin.plain import SwinShape
from poa_plugin.formats.description import (
    LibraryFormats,
    TimmDescription,
    mlp_ratio,
    pretrained_cfg,
)
from poa_plugin.registry import FORMATS


@FORMATS.register_as("swin")
class SwinFormats(LibraryFormats):
    """Swin transformers in timm."""

    def timm(self, options: Mapping[str, Any]) -> TimmDescription:
        """See `LibraryFormats.timm`."""
        return timm_description(SwinShape(**options))


def timm_description(shape: SwinShape) -> TimmDescription:
    """Say how timm builds a network of this shape.

    timm rolls a map before it pads it; the two agree where the window divides the maps of all stages. It
    shifts every other block: what else there is, after blocks were left out, has to be set.
    """
    if shape.stem_width != shape.width:
        return TimmDescription(
            refusal=f"timm has no Swin whose patch norm is over {shape.stem_width} channels of which "
            f"{shape.width} go on (student.swin.patch_norm=full): poa_plugin.load loads it."
        )

    def adjust(network: Any) -> None:
        for stage, shifts in zip(network.layers, shape.shifts, strict=True):
            for block, shift in zip(stage.blocks, shifts, strict=True):
                block.target_shift_size = (shift, shift)
                block.set_input_size(block.input_resolution, block.window_size)

    return TimmDescription(
        {
            "architecture": "swin_tiny_patch4_window7_224",
            "num_classes": 0,
            "num_features": shape.width * 2 ** (len(shape.shifts) - 1),
            "global_pool": "avg",
            "model_args": {
                "img_size": shape.image_size,
                "patch_size": shape.patch_size,
                "in_chans": shape.in_chans,
                "embed_dim": shape.width,
                "depths": [len(shifts) for shifts in shape.shifts],
                "num_heads": [
                    shape.width * 2**s // shape.head_dim for s in range(len(shape.shifts))
                ],
                "head_dim": shape.head_dim,
                "window_size": shape.window,
                "always_partition": True,
                "mlp_ratio": mlp_ratio(shape.width, shape.hidden),
                "qkv_bias": shape.qkv_bias,
            },
            "pretrained_cfg": pretrained_cfg(
                shape.image_size, shape.in_chans, "patch_embed.proj", "head.fc"
            ),
        },
        needs_adjusting=any(
            list(shifts) != _alternating(shape, len(shifts)) for shifts in shape.shifts
        ),
        adjust=adjust,
        limits="timm rolls a map before it pads it: it agrees where the window divides the maps of all stages.",
    )


def _alternating(shape: SwinShape, depth: int) -> list[int]:
    """Return the shifts that timm gives the blocks of a stage."""
    return [i % 2 * (shape.window // 2) for i in range(depth)]
