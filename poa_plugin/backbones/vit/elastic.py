"""The elastic vision transformer: the same blocks of elastic layers, run on several crop batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones.attention import Layout
from poa_plugin.backbones.base import CropBatch, Features
from poa_plugin.backbones.isotropic.elastic import IsotropicBackbone
from poa_plugin.backbones.multi_input import by_subnet, run_where
from poa_plugin.backbones.option_checks import check_widths
from poa_plugin.backbones.vit.block import ViTMultiInputBlock, read_tokens
from poa_plugin.backbones.vit.options import SIZES, ViTOptions
from poa_plugin.backbones.vit.plain import VisionTransformer, ViTShape, add_cls_and_position
from poa_plugin.elastic import slicing
from poa_plugin.registry import BACKBONES


@BACKBONES.register_as("vit")
class ElasticVisionTransformer(IsotropicBackbone, VisionTransformer):  # type: ignore[misc]
    """An elastic vision transformer: width and depth of every call are those of its sub-network.

    See `IsotropicBackbone` for its arguments.
    """

    block = ViTMultiInputBlock
    Options = ViTOptions
    sizes = SIZES

    @staticmethod
    def intact_shape(options: ViTOptions, image_size: int) -> ViTShape:
        """See `IsotropicBackbone.intact_shape`."""
        return ViTShape(
            image_size=image_size,
            patch_size=options.patch_size,
            width=options.max_width,
            depth=options.max_depth,
            head_dim=options.head_dim,
            hidden=int(options.max_width * options.mlp_ratio),
            qkv_bias=options.qkv_bias,
            proj_bias=options.proj_bias,
            ffn_bias=options.ffn_bias,
            layerscale=options.layerscale,
        )

    @classmethod
    def check_space(cls, shape: ViTShape, widths: Sequence[int]) -> None:  # type: ignore[override]
        """See `IsotropicBackbone.check_space`."""
        check_widths(widths, shape.width, shape.hidden, shape.head_dim)

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """See `ElasticBackbone.forward_features_list`.

        The crop batches of one sub-network are packed: a layer multiplies all their tokens at once, and its
        weights get one gradient.
        """
        tokens = self._embed_crops(crop_batches)
        members = by_subnet(crop_batches)
        packed: list[Tensor] = []
        layouts, active, read = [], [], []
        drop_paths = [
            self._draw_drop_paths([crop_batches[i] for i in ids]) for ids in members.values()
        ]
        for subnet, ids in members.items():
            packed.append(torch.cat([tokens[i].flatten(0, 1) for i in ids]))
            layouts.append(tuple((len(tokens[i]), tokens[i].shape[1]) for i in ids))
            active.append(self.active_blocks(subnet))
            read.append(read_tokens(layouts[-1], [crop_batches[i].patch_ids for i in ids]))
        del tokens
        for i, block in enumerate(self.blocks):
            runs = [i in ids for ids in active]
            last = [r if ids[-1] == i else None for r, ids in zip(read, active, strict=True)]
            packed = run_where(
                block, packed, runs, layouts, [drop_path[i] for drop_path in drop_paths], last
            )
        features: dict[int, Features] = {}
        for x, ids, layout in zip(packed, members.values(), layouts, strict=True):
            member_batches = [crop_batches[i] for i in ids]
            features |= zip(ids, self._split(x, member_batches, layout), strict=True)
        return [features[i] for i in range(len(crop_batches))]

    def _split(
        self, x: Tensor, crop_batches: Sequence[CropBatch], layout: Layout
    ) -> list[Features]:
        """Return the features of each crop batch of a sub-network, whose packed tokens are `x`."""
        sizes = [
            images * n if crop_batch.patch_ids is None else images + len(crop_batch.patch_ids)
            for crop_batch, (images, n) in zip(crop_batches, layout, strict=True)
        ]
        batches = zip(x.split(sizes), self.norm(x).split(sizes), crop_batches, layout, strict=True)
        return [
            self.name_tokens(
                x_prenorm.unflatten(0, size), x_norm.unflatten(0, size), crop_batch.masks
            )
            if crop_batch.patch_ids is None
            else {
                "x_norm_clstoken": x_norm[: size[0]],
                "x_norm_patchtokens": x_norm[size[0] :],
                "x_prenorm": None,
                "masks": crop_batch.masks,
            }
            for x_prenorm, x_norm, crop_batch, size in batches
        ]

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """See `IsotropicBackbone.run_block`."""
        size = (len(x), x.shape[1])
        [out] = block([x.flatten(0, 1)], [(size,)], [[None]], [None])
        return cast(Tensor, out).unflatten(0, size)

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """See `IsotropicBackbone.sliced`."""
        return self._tokens_at(slicing.active_size(self.shape.width, width_ratio))

    def embed(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `VisionTransformer.embed`."""
        return add_cls_and_position(patches, **self._tokens_at(patches.shape[-1]), grid=grid)

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> VisionTransformer:
        """See `ElasticBackbone.build_plain`."""
        return VisionTransformer(ViTShape(**options))

    def _tokens_at(self, width: int) -> dict[str, Tensor]:
        tensors = {"cls_token": self.cls_token, "pos_embed": self.pos_embed}
        return {name: slicing.leading(tensor, width) for name, tensor in tensors.items()}
