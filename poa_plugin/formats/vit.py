"""How timm and transformers build the vision transformers of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from poa_plugin.backbones.vit.plain import ViTShape
from poa_plugin.formats.description import (
    HuggingFaceDescription,
    LibraryFormats,
    TimmDescription,
    mlp_ratio,
    pretrained_cfg,
)
from poa_plugin.registry import FORMATS

DINOV2_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
"""Names that transformers' files of Dinov2 models write in another way than timm's; `blocks.<i>.` is
`encoder.layer.<i>.`, and `attn.qkv` is cut in three."""


@FORMATS.register_as("vit")
class ViTFormats(LibraryFormats):
    """Vision transformers in timm and transformers."""

    def timm(self, options: Mapping[str, Any]) -> TimmDescription:
        """See `LibraryFormats.timm`."""
        return timm_description(ViTShape(**options))

    def hugging_face(self, options: Mapping[str, Any]) -> HuggingFaceDescription | None:
        """See `LibraryFormats.hugging_face`."""
        return hugging_face_description(ViTShape(**options))


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
                "mlp_ratio": mlp_ratio(shape.width, shape.hidden),
                "qkv_bias": shape.qkv_bias,
                "proj_bias": shape.proj_bias,
                "init_values": shape.layerscale,
            },
            "pretrained_cfg": pretrained_cfg(
                shape.image_size, shape.in_chans, "patch_embed.proj", "head"
            ),
        },
        limits=f"timm takes images of {shape.image_size} x {shape.image_size} pixels. Told to take others "
        f"(`dynamic_img_size=True`), it resizes positions in another way than the network was trained with.",
    )


def hugging_face_description(shape: ViTShape) -> HuggingFaceDescription | None:
    """Say how transformers' Dinov2 classes build a network of this shape; None where they cannot.

    Their layer scale and the biases of projections and MLP cannot be left out, and their MLP's ratio is a
    whole number. There is no mask token, as in every extracted network.
    """
    ratio, rest = divmod(shape.hidden, shape.width)
    if rest or shape.layerscale is None or not (shape.proj_bias and shape.ffn_bias):
        return None
    config = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.width // shape.head_dim,
        "mlp_ratio": ratio,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "num_channels": shape.in_chans,
        "qkv_bias": shape.qkv_bias,
        "layerscale_value": shape.layerscale,
        "layer_norm_eps": 1e-6,
        "use_mask_token": False,
    }
    return HuggingFaceDescription(
        "dinov2",
        config,
        dinov2_state_dict,
        limits=f"At other sizes than {shape.image_size} x {shape.image_size} pixels transformers resizes "
        f"positions to the size of the grid, where the network was trained with a scale factor of "
        f"(n + 0.1) / {shape.image_size // shape.patch_size}: features differ a little. There is no mask "
        f"token.",
    )


def dinov2_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict to the names of transformers' files of Dinov2 models."""
    renamed = {}
    for key, tensor in state.items():
        prefix, name = "", key
        if key.startswith("blocks."):
            _, index, name = key.split(".", 2)
            prefix = f"encoder.layer.{index}."
        if name.startswith("attn.qkv."):
            kind = name.rsplit(".", 1)[1]
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{prefix}attention.attention.{part}.{kind}"] = rows.clone()
            continue
        stem, _, kind = name.rpartition(".")
        if name in DINOV2_NAMES:
            name = DINOV2_NAMES[name]
        elif stem in DINOV2_NAMES:
            name = f"{DINOV2_NAMES[stem]}.{kind}"
        renamed[prefix + name] = tensor
    return renamed
