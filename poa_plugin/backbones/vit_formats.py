"""How timm and transformers build the vision transformers of this package."""

from __future__ import annotations

from poa_plugin.backbones.formats import TimmDescription, pretrained_cfg
from poa_plugin.backbones.vit import ViTShape


def timm_description(shape: ViTShape) -> TimmDescription:
    """Say how stock timm builds a network of this shape."""
    if not shape.ffn_bias:
        return TimmDescription(
            refusal="timm's vision transformer has no argument for ffn_bias: false."
        )
    return TimmDescription(
        {
            "architecture": "vit_base_patch16_224",
            "num_classes": 0,
            "num_features": shape.width,
            "global_pool": "token",
            "model_args": {
                "img_size": shape.image_size,
                "patch_size": shape.patch_size,
                "in_chans": shape.in_chans,
                "embed_dim": shape.width,
                "depth": shape.depth,
                "num_heads": shape.width // shape.head_dim,
                "mlp_ratio": _mlp_ratio(shape),
                "qkv_bias": shape.qkv_bias,
                "proj_bias": shape.proj_bias,
                "init_values": shape.layerscale,
            },
            "pretrained_cfg": pretrained_cfg(
                shape.image_size, shape.in_chans, "patch_embed.proj", "head"
            ),
        }
    )


def _mlp_ratio(shape: ViTShape) -> float:
    """Return the ratio from which timm's truncating arithmetic gets the hidden width."""
    ratio = shape.hidden / shape.width
    return ratio if int(shape.width * ratio) == shape.hidden else (shape.hidden + 0.5) / shape.width
