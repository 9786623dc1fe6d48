"""The elastic isotropic network: the family's blocks of elastic layers, run on several crop batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features, check_member
from poa_plugin.backbones.inputs import check_masks
from poa_plugin.backbones.intermediate import Layer, layer_indices
from poa_plugin.backbones.isotropic.options import drop_path_rates
from poa_plugin.backbones.isotropic.plain import IsotropicNetwork, IsotropicShape
from poa_plugin.backbones.multi_input import by_subnet, run_where, shared_stem
from poa_plugin.backbones.option_checks import check_crop, check_patches, check_space_size, steps
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayers, MultiInputBlock
from poa_plugin.elastic.subnet import SearchSpace, Subnet, grid_multiplicities, select_blocks
from poa_plugin.errors import UserError


class IsotropicMultiInputBlock(MultiInputBlock):
    """Mixin: the block after it in the bases takes the inputs of all sub-networks of a step in one call."""

    def run(self, tokens: list[Tensor], drop_paths: Sequence[Tensor | None]) -> list[Tensor]:
        """Run the block on each crop batch of one sub-network.

        Args:
            tokens: of the crop batches.
            drop_paths: for each crop batch, this block's entry of `draw_drop_path`.
        """
        block = super(MultiInputBlock, self).forward  # type: ignore[misc]
        return [block(x, drop_path) for x, drop_path in zip(tokens, drop_paths, strict=True)]


class IsotropicBackbone(ElasticBackbone, IsotropicNetwork):  # type: ignore[misc]
    """Base of elastic backbones with one width and one stack of equal blocks.

    A family derives from it and from its ordinary network, in this order. It sets `Options` and `block`, an
    `IsotropicMultiInputBlock`, and defines `intact_shape` and `build_plain`.

    Args:
        shape: the sizes of the intact network.
        widths, depths: of the members; the last of each is the intact network's.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        drop_path_rates: the stochastic-depth rate of each block, by its index in the intact network.

    Attributes:
        sizes: members that have names.
        proportional: the fields of the shape that narrow with the width.

    Raises:
        UserError: a size is no whole number at some width.
    """

    layers = ElasticLayers
    sizes: ClassVar[Mapping[str, Subnet]] = {}
    proportional: ClassVar[Sequence[str]] = ("width", "hidden")

    def __init__(
        self,
        shape: IsotropicShape,
        widths: Sequence[int],
        depths: Sequence[int],
        net_select_scale: float = 3.0,
        drop_path_rates: Sequence[float] | None = None,
    ) -> None:
        self.check_space(shape, widths)
        if widths[-1] != shape.width or depths[-1] != shape.depth:
            raise UserError(
                "The last width and depth of a search space must be the intact network's."
            )
        super().__init__(shape, drop_path_rates)
        self.mask_token = nn.Parameter(torch.zeros(1, shape.width))
        self.space = SearchSpace(
            subnets=[Subnet(width, depth) for width in widths for depth in depths],
            multiplicities=grid_multiplicities(len(widths), len(depths), net_select_scale),
            aliases=self.sizes,
            plain=self.plain,
            blocks=self.member_path,
            image_size=shape.image_size,
        )

    @classmethod
    def from_options(cls, options: Any, image_size: int) -> IsotropicBackbone:
        """See `ElasticBackbone.from_options`."""
        check_crop(image_size, options.patch_size)
        shape, rates = cls.intact_shape(options, image_size), drop_path_rates(options)
        widths = steps("width", options.min_width, options.max_width, options.width_step)
        depths = steps("depth", options.min_depth, options.max_depth, options.depth_step)
        check_space_size(len(widths) * len(depths), options.net_select_scale)
        return cls(shape, widths, depths, options.net_select_scale, rates)

    @staticmethod
    def intact_shape(options: Any, image_size: int) -> IsotropicShape:
        """Return the sizes of the intact network.

        Args:
            options: an instance of `Options`.
            image_size: the side of the global crops in pixels.
        """
        raise NotImplementedError

    @classmethod
    def check_space(cls, shape: IsotropicShape, widths: Sequence[int]) -> None:
        """Raise a `UserError` if members of these widths cannot be made of a network of this shape."""
        for name in cls.proportional:
            full = getattr(shape, name)
            for width in widths:
                if full < 1 or full * width % shape.width:
                    raise UserError(
                        f"The size '{name}' is {full} at width {shape.width} and would be no whole number at "
                        f"width {width}."
                    )

    forward = ElasticBackbone.forward

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """See `ElasticBackbone.forward_features_list`."""
        embedded, members = self._embed_crops(crop_batches), by_subnet(crop_batches)
        tokens = [[embedded[i] for i in ids] for ids in members.values()]
        del embedded
        drop_paths = [
            self._draw_drop_paths([crop_batches[i] for i in ids]) for ids in members.values()
        ]
        active = [self.active_blocks(subnet) for subnet in members]
        for i, block in enumerate(self.blocks):
            runs = [i in ids for ids in active]
            tokens = run_where(block, tokens, runs, [drawn[i] for drawn in drop_paths])
        features: dict[int, Features] = {}
        for ids, outputs in zip(members.values(), tokens, strict=True):
            for i, x in zip(ids, outputs, strict=True):
                features[i] = self.name_tokens(x, self.norm(x), crop_batches[i].masks)
        return [features[i] for i in range(len(crop_batches))]

    def member_layers_at(
        self, images: Tensor, subnet: Subnet, n: int | Sequence[int], norm: bool
    ) -> list[Layer]:
        """See `ElasticBackbone.member_layers_at`."""
        ids = self.active_blocks(subnet)
        indices, taken = layer_indices(n, len(ids), "blocks"), {}
        [x] = self._embed_crops([CropBatch(images, subnet)])
        for i, block_id in enumerate(ids):
            x = self.run_block(self.blocks[block_id], x)
            if i in indices:
                taken[i] = self._layer(self.norm(x) if norm else x, images)
        return [taken[i] for i in indices]

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run a multi-input block on the tokens of one crop batch, without stochastic depth."""
        [[out]] = block([[x]], [[None]])
        return cast(Tensor, out)

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
        """Return what `add_parameters` added at a width ratio, by default nothing; no mask token.

        The mask token belongs to pre-training; see `extract`'s `with_heads`.
        """
        return {}

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

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.plain_options`."""
        depth, width_ratio = len(self.active_blocks(subnet)), self.space.width_ratio(subnet)
        options = {**asdict(cast(Any, self.shape)), "depth": depth}
        for name in self.proportional:
            options[name] = slicing.active_size(options[name], width_ratio)
        return options

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

    def _draw_drop_paths(
        self, crop_batches: Sequence[CropBatch]
    ) -> list[tuple[Tensor | None, ...]]:
        """Return for each block what is drawn for each of a sub-network's crop batches."""
        drawn = [self.draw_drop_path(len(crops.images), crops.generator) for crops in crop_batches]
        return list(zip(*drawn, strict=True))

    def _embed_crops(self, crop_batches: Sequence[CropBatch]) -> list[Tensor]:
        return shared_stem(crop_batches, self._embed_at, lambda subnet: subnet.width)

    def _embed_at(self, images: Tensor, masks: Tensor | None, width: int) -> Tensor:
        patches = self.patch_embed(images, width)
        if masks is not None:
            check_masks(masks, len(patches), self._grid(images))
            mask_token = slicing.leading(self.mask_token, width)
            patches = torch.where(masks.unsqueeze(-1), mask_token, patches)
        return self.embed(patches, self._grid(images))
