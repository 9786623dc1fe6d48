"""The elastic vision transformer: the same blocks of elastic layers, run on several crop batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from poa_plugin.backbones.attention import Layout
from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features, check_member
from poa_plugin.backbones.inputs import check_masks
from poa_plugin.backbones.multi_input import by_subnet, run_where, shared_stem
from poa_plugin.backbones.option_checks import (
    check_crop,
    check_patches,
    check_space_size,
    check_widths,
    steps,
)
from poa_plugin.backbones.vit.block import ViTMultiInputBlock, read_tokens
from poa_plugin.backbones.vit.options import SIZES, ViTOptions
from poa_plugin.backbones.vit.plain import (
    VisionTransformer,
    ViTShape,
    add_cls_and_position,
    block_indices,
    intermediate,
    outputs,
)
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayers
from poa_plugin.elastic.subnet import SearchSpace, Subnet, grid_multiplicities, select_blocks
from poa_plugin.errors import UserError
from poa_plugin.registry import BACKBONES


@BACKBONES.register_as("vit")
class ElasticVisionTransformer(VisionTransformer, ElasticBackbone):
    """An elastic vision transformer: width and depth of every call are those of its sub-network.

    Args:
        shape: the sizes of the intact network.
        widths, depths: of the members; the last of each is the intact network's.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        drop_path_rates: the stochastic-depth rate of each block, by its index in the intact network.
    """

    layers = ElasticLayers
    block = ViTMultiInputBlock
    Options = ViTOptions

    def __init__(
        self,
        shape: ViTShape,
        widths: Sequence[int],
        depths: Sequence[int],
        net_select_scale: float = 3.0,
        drop_path_rates: Sequence[float] | None = None,
    ) -> None:
        _check_space(shape, widths, depths)
        super().__init__(shape, drop_path_rates)
        self.mask_token = nn.Parameter(torch.zeros(1, shape.width))
        self.space = SearchSpace(
            subnets=[Subnet(width, depth) for width in widths for depth in depths],
            multiplicities=grid_multiplicities(len(widths), len(depths), net_select_scale),
            aliases=SIZES,
            plain=self.plain,
            blocks=self.member_path,
            image_size=shape.image_size,
        )

    @classmethod
    def from_options(cls, options: ViTOptions, image_size: int) -> ElasticVisionTransformer:
        """See `ElasticBackbone.from_options`."""
        check_crop(image_size, options.patch_size)
        shape = ViTShape(
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
        rate, depth = options.drop_path_rate, options.max_depth
        if options.drop_path_uniform:
            rates = [rate] * depth
        else:
            rates = [rate * i / max(depth - 1, 1) for i in range(depth)]
        widths = steps("width", options.min_width, options.max_width, options.width_step)
        depths = steps("depth", options.min_depth, options.max_depth, options.depth_step)
        check_space_size(len(widths) * len(depths), options.net_select_scale)
        return cls(
            shape,
            widths=widths,
            depths=depths,
            net_select_scale=options.net_select_scale,
            drop_path_rates=rates,
        )

    forward = ElasticBackbone.forward

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """See `ElasticBackbone.forward_features_list`.

        The crop batches of one sub-network are packed: a layer multiplies all their tokens at once, and its
        weights get one gradient.
        """
        tokens = self._embed_crops(crop_batches)
        members = by_subnet(crop_batches)
        packed: list[Tensor] = []
        layouts, drop_paths, active, read = [], [], [], []
        for subnet, ids in members.items():
            packed.append(torch.cat([tokens[i].flatten(0, 1) for i in ids]))
            layouts.append(tuple((len(tokens[i]), tokens[i].shape[1]) for i in ids))
            drawn = [
                self.draw_drop_path(len(crop_batches[i].images), crop_batches[i].generator)
                for i in ids
            ]
            drop_paths.append(list(zip(*drawn, strict=True)))
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
            outputs(x_prenorm.unflatten(0, size), x_norm.unflatten(0, size), crop_batch.masks)
            if crop_batch.patch_ids is None
            else {
                "x_norm_clstoken": x_norm[: size[0]],
                "x_norm_patchtokens": x_norm[size[0] :],
                "x_prenorm": None,
                "masks": crop_batch.masks,
            }
            for x_prenorm, x_norm, crop_batch, size in batches
        ]

    def get_intermediate_layers(  # type: ignore[override]
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        subnet: Subnet | str | None = None,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return a sub-network's tokens after blocks; indices count its blocks.

        See `VisionTransformer.get_intermediate_layers`.
        """
        subnet = self.member(subnet)
        ids = self.active_blocks(subnet)
        indices, taken = block_indices(n, len(ids)), {}
        [embedded] = self._embed_crops([CropBatch(images, subnet)])
        size, x = (len(embedded), embedded.shape[1]), embedded.flatten(0, 1)
        for i, block_id in enumerate(ids):
            [x] = self.blocks[block_id]([x], [(size,)], [[None]], [None])
            if i in indices:
                taken[i] = (self.norm(x) if norm else x).unflatten(0, size)
        return intermediate(
            [taken[i] for i in indices], images, self.shape.patch_size, reshape, return_class_token
        )

    def active_blocks(self, subnet: Subnet) -> list[int]:
        """Return the indices of a member's blocks (POA eq. 4).

        Raises:
            UserError: the sub-network is not a member of the space.
        """
        check_member(self.space, subnet)
        return select_blocks(self.shape.depth, subnet.depth)

    def member_path(self, subnet: Subnet) -> list[str]:
        """See `ElasticBackbone.member_path`."""
        return [f"blocks.{i}" for i in self.active_blocks(subnet)]

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """Return the class token and the positions at a width ratio; no mask token.

        The mask token belongs to pre-training; see `extract`'s `with_heads`.
        """
        width = slicing.active_size(self.shape.width, width_ratio)
        tensors = {"cls_token": self.cls_token, "pos_embed": self.pos_embed}
        return {name: slicing.leading(tensor, width) for name, tensor in tensors.items()}

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """See `ElasticBackbone.sliced_mask_token`; (1, d)."""
        return slicing.leading(self.mask_token, subnet.width).detach().clone()

    def feature_width(self, subnet: Subnet | str) -> int:
        """See `ElasticBackbone.feature_width`."""
        return self.member(subnet).width

    def check_image_size(self, image_size: int) -> None:
        """See `ElasticBackbone.check_image_size`."""
        check_patches((image_size, image_size), self.shape.patch_size)

    def mask_grid(self, image_size: int) -> tuple[int, int]:
        """See `ElasticBackbone.mask_grid`."""
        side = image_size // self.shape.patch_size
        return side, side

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> VisionTransformer:
        """See `ElasticBackbone.build_plain`."""
        return VisionTransformer(ViTShape(**options))

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.plain_options`."""
        hidden = slicing.active_size(self.shape.hidden, self.space.width_ratio(subnet))
        depth = len(self.active_blocks(subnet))
        return {**asdict(self.shape), "width": subnet.width, "depth": depth, "hidden": hidden}

    def plain_names(self, subnet: Subnet) -> dict[str, str]:
        """See `ElasticBackbone.plain_names`."""
        names = {name: name for name, _ in self.named_modules() if not name.startswith("blocks.")}
        for new, old in enumerate(self.active_blocks(subnet)):
            for name, _ in self.blocks[old].named_modules(prefix=f"blocks.{old}"):
                names[name] = name.replace(f"blocks.{old}", f"blocks.{new}", 1)
        return names

    def layer_id(self, parameter: str) -> int:
        """See `ElasticBackbone.layer_id`."""
        if parameter.startswith("blocks."):
            return int(parameter.split(".")[1]) + 1
        return self.num_layers if parameter.startswith("norm.") else 0

    @property
    def num_layers(self) -> int:
        """See `ElasticBackbone.num_layers`."""
        return self.shape.depth + 1

    def _embed_crops(self, crop_batches: Sequence[CropBatch]) -> list[Tensor]:
        return shared_stem(crop_batches, self._embed_at, lambda subnet: subnet.width)

    def _embed_at(self, images: Tensor, masks: Tensor | None, width: int) -> Tensor:
        patches = self.patch_embed(images, width)
        if masks is not None:
            check_masks(masks, len(patches), self._grid(images))
            mask_token = slicing.leading(self.mask_token, width)
            patches = torch.where(masks.unsqueeze(-1), mask_token, patches)
        cls_token = slicing.leading(self.cls_token, width)
        pos_embed = slicing.leading(self.pos_embed, width)
        return add_cls_and_position(patches, cls_token, pos_embed, self._grid(images))


def _check_space(shape: ViTShape, widths: Sequence[int], depths: Sequence[int]) -> None:
    check_widths(widths, shape.width, shape.hidden, shape.head_dim)
    if widths[-1] != shape.width or depths[-1] != shape.depth:
        raise UserError("The last width and depth of a search space must be the intact network's.")
