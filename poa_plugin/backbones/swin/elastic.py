"""The elastic Swin: widths vary in all stages together, depth in the third."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones import staged
from poa_plugin.backbones.attention import unpacked
from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features, check_member
from poa_plugin.backbones.drop_path import draw_drop_path
from poa_plugin.backbones.intermediate import Layer, layer_indices, layer_of
from poa_plugin.backbones.multi_input import by_subnet, run_where, shared_stem
from poa_plugin.backbones.option_checks import check_patches, check_widths, steps
from poa_plugin.backbones.swin.block import (
    ElasticPatchEmbed,
    SwinMultiInputBlock,
    SwinMultiInputMerging,
)
from poa_plugin.backbones.swin.options import ELASTIC_STAGE, SIZES, SwinOptions, intact_shape
from poa_plugin.backbones.swin.plain import (
    PatchEmbed,
    Stage,
    SwinShape,
    SwinTransformer,
    module_path,
)
from poa_plugin.backbones.swin.windows import MapLayout, packed_windows
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayers, PlainLayers
from poa_plugin.elastic.subnet import SearchSpace, Subnet, grid_multiplicities, select_blocks
from poa_plugin.registry import BACKBONES


@BACKBONES.register_as("swin")
class ElasticSwinTransformer(SwinTransformer, staged.StagedBackbone):
    """An elastic Swin: width and depth of every call are those of its sub-network.

    `norm0`, `norm1` and `norm2` are for features of earlier stages; pre-training does not use them.

    Args:
        shape: the sizes of the intact network.
        widths, depths: of the members, the depth that of the third stage; the last of each is the
            intact network's.
        patch_norm: `active` normalizes the channels of a sub-network; `full`, as in the published code,
            normalizes all of the intact network's, of which the sub-network then takes the leading ones.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        drop_path_rate: of the last block; it rises linearly from 0 over all blocks of the intact network.
    """

    layers_of = ElasticLayers
    block = SwinMultiInputBlock
    merging = SwinMultiInputMerging
    Options = SwinOptions
    unused = tuple(f"norm{stage}" for stage in range(staged.N_STAGES - 1))

    def __init__(
        self,
        shape: SwinShape,
        widths: Sequence[int],
        depths: Sequence[int],
        patch_norm: str = "active",
        net_select_scale: float = 2.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_widths(widths, shape.width, shape.hidden, shape.head_dim)
        self.patch_norm = patch_norm
        merged = 2 ** (staged.N_STAGES - 1)
        self.masks = staged.MaskGrid(shape.patch_size, merged, shape.ibot_scale_factor)
        super().__init__(shape)
        for stage in range(staged.N_STAGES - 1):
            self.add_module(f"norm{stage}", self.layers_of.layer_norm(shape.width * 2**stage))
        self.mask_token = nn.Parameter(torch.zeros(1, shape.width))
        n_blocks = sum(len(shifts) for shifts in shape.shifts)
        self.drop_path_rates = [drop_path_rate * i / max(n_blocks - 1, 1) for i in range(n_blocks)]
        self.space = SearchSpace(
            subnets=[Subnet(width, depth) for width in widths for depth in depths],
            multiplicities=grid_multiplicities(len(widths), len(depths), net_select_scale),
            aliases=SIZES,
            plain=self.plain,
            blocks=self.member_path,
            image_size=shape.image_size,
        )

    @classmethod
    def from_options(cls, options: SwinOptions, image_size: int) -> ElasticSwinTransformer:
        """See `ElasticBackbone.from_options`."""
        shape = intact_shape(options, image_size)
        return cls(
            shape,
            widths=steps("width", options.min_width, options.max_width, options.width_step),
            depths=steps(
                "depth", options.min_depth, options.max_depths[ELASTIC_STAGE], options.depth_step
            ),
            patch_norm=options.patch_norm,
            net_select_scale=options.net_select_scale,
            drop_path_rate=options.drop_path_rate,
        )

    forward = ElasticBackbone.forward
    get_intermediate_layers = ElasticBackbone.get_intermediate_layers  # type: ignore[assignment]

    def build_patch_embed(self) -> PatchEmbed:
        """Build the patch embedding; a `full` one is sliced after its norm, so its layers are ordinary."""
        if self.patch_norm == "full":
            return PatchEmbed(self.shape, PlainLayers)
        return ElasticPatchEmbed(self.shape, self.layers_of)

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """See `ElasticBackbone.forward_features_list`.

        The crop batches of one sub-network are packed: a layer multiplies all their tokens at once, and its
        weights get one gradient.
        """
        members = by_subnet(crop_batches)
        maps = self._embed_crops(crop_batches)
        packed: list[Tensor] = []
        layouts: list[MapLayout] = []
        for ids in members.values():
            packed.append(torch.cat([maps[i].flatten(0, 2) for i in ids]))
            layouts.append(tuple((len(maps[i]), *maps[i].shape[1:3]) for i in ids))
        del maps
        drop_paths = [
            self._draw_drop_path([crop_batches[i] for i in ids]) for ids in members.values()
        ]
        active = [self.active_blocks(subnet) for subnet in members]
        first = 0
        for s, stage in enumerate(self._stages):
            if s:
                packed = stage.downsample(packed, layouts)
                layouts = [
                    tuple((n, -(-h // 2), -(-w // 2)) for n, h, w in layout) for layout in layouts
                ]
            active_ids = [set(blocks[s]) for blocks in active]
            packed = self._run_stage(
                stage.blocks, packed, layouts, active_ids, [k[first:] for k in drop_paths]
            )
            first += len(stage.blocks)
        features: dict[int, Features] = {}
        for x, ids, layout in zip(packed, members.values(), layouts, strict=True):
            maps, normed = unpacked(x, layout), unpacked(self.norm(x), layout)
            for i, x_prenorm, x_norm in zip(ids, maps, normed, strict=True):
                factor, masks = self.shape.ibot_scale_factor, crop_batches[i].masks
                features[i] = staged.outputs(x_prenorm, x_norm, factor, masks)
        return [features[i] for i in range(len(crop_batches))]

    def _run_stage(
        self,
        blocks: nn.ModuleList,
        packed: list[Tensor],
        layouts: Sequence[MapLayout],
        active_ids: Sequence[set[int]],
        drop_paths: Sequence[Sequence[Sequence[Tensor | None]]],
    ) -> list[Tensor]:
        """Run the blocks of a stage over the packed tokens of each sub-network."""
        swin_blocks = [cast(SwinMultiInputBlock, block) for block in blocks]
        windows = {
            shift: [
                packed_windows(layout, self.shape.window, shift, packed[0]) for layout in layouts
            ]
            for shift in sorted({block.shift for block in swin_blocks})
        }
        for i, block in enumerate(swin_blocks):
            runs = [i in ids for ids in active_ids]
            packed = run_where(
                block,
                packed,
                runs,
                windows[block.shift],
                [drop_path[i] for drop_path in drop_paths],
            )
        return packed

    def member_layers_at(
        self, images: Tensor, subnet: Subnet, n: int | Sequence[int], norm: bool
    ) -> list[Layer]:
        """See `ElasticBackbone.member_layers_at`; each stage goes through its own norm."""
        [x] = self._embed_crops([CropBatch(images, subnet)])
        maps = []
        for s, (stage, ids) in enumerate(
            zip(self._stages, self.active_blocks(subnet), strict=True)
        ):
            layout: MapLayout = ((len(x), *x.shape[1:3]),)
            if s:
                [merged] = stage.downsample([x.flatten(0, 2)], [layout])
                layout = tuple((n, -(-h // 2), -(-w // 2)) for n, h, w in layout)
                x = merged.unflatten(0, layout[0])
            drop_paths = [[[None]] * len(stage.blocks)]
            [out] = self._run_stage(
                stage.blocks, [x.flatten(0, 2)], [layout], [set(ids)], drop_paths
            )
            x = out.unflatten(0, layout[0])
            stage_norm = self.norm if s == len(self.layers) - 1 else self.get_submodule(f"norm{s}")
            maps.append(stage_norm(x) if norm else x)
        return [layer_of(maps[i]) for i in layer_indices(n, staged.N_STAGES, "stages")]

    def block_name(self, stage: int, block: int) -> str:
        """See `StagedBackbone.block_name`."""
        return f"layers.{stage}.blocks.{block}"

    def active_blocks(self, subnet: Subnet) -> list[list[int]]:
        """See `StagedBackbone.active_blocks`."""
        check_member(self.space, subnet)
        full = [len(shifts) for shifts in self.shape.shifts]
        return [
            select_blocks(n, subnet.depth if s == ELASTIC_STAGE else n) for s, n in enumerate(full)
        ]

    def member_path(self, subnet: Subnet) -> list[str]:
        """See `ElasticBackbone.member_path`."""
        return module_path(self.active_blocks(subnet))

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """See `ElasticBackbone.sliced_mask_token`; (1, d)."""
        return slicing.leading(self.mask_token, subnet.width).detach().clone()

    def feature_width(self, subnet: Subnet | str) -> int:
        """See `ElasticBackbone.feature_width`."""
        return int(self.member(subnet).width * 2 ** (staged.N_STAGES - 1))

    def check_image_size(self, image_size: int) -> None:
        """See `ElasticBackbone.check_image_size`."""
        check_patches((image_size, image_size), self.shape.patch_size)

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> SwinTransformer:
        """See `ElasticBackbone.build_plain`."""
        return SwinTransformer(SwinShape(**options))

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.plain_options`; a block has the same shift when others are skipped."""
        shifts = zip(self.shape.shifts, self.active_blocks(subnet), strict=True)
        return {
            **asdict(self.shape),
            "width": subnet.width,
            "stem_width": self.shape.width if self.patch_norm == "full" else subnet.width,
            "shifts": [[stage_shifts[i] for i in ids] for stage_shifts, ids in shifts],
            "hidden": slicing.active_size(self.shape.hidden, self.space.width_ratio(subnet)),
        }

    def layer_id(self, parameter: str) -> int:
        """See `ElasticBackbone.layer_id`; a merging has that of the first block after it."""
        parts = parameter.split(".")
        if parts[0] != "layers":
            return self.num_layers if parts[0].startswith("norm") else 0
        earlier = sum(len(shifts) for shifts in self.shape.shifts[: int(parts[1])])
        return earlier + 1 + (int(parts[3]) if parts[2] == "blocks" else 0)

    @property
    def num_layers(self) -> int:
        """See `ElasticBackbone.num_layers`."""
        return 1 + sum(len(shifts) for shifts in self.shape.shifts)

    @property
    def _stages(self) -> list[Stage]:
        return [cast(Stage, stage) for stage in self.layers]

    def _draw_drop_path(self, crop_batches: Sequence[CropBatch]) -> list[tuple[Tensor | None, ...]]:
        """Draw stochastic depth image by image: for each block, an entry for each crop batch."""
        rates = self.drop_path_rates if self.training else [0.0] * len(self.drop_path_rates)
        drawn = [
            draw_drop_path(
                rates, len(batch.images), self.mask_token.device, batch.generator, subset_above=1
            )
            for batch in crop_batches
        ]
        return list(zip(*drawn, strict=True))

    def _embed_crops(self, crop_batches: Sequence[CropBatch]) -> list[Tensor]:
        """Run the patch convolution once for the same images, norm and mask for each width."""
        full = self.patch_norm == "full"

        def project(images: Tensor, masks: Tensor | None, width: int) -> Tensor:
            return self.patch_embed.project(images, *([] if full else [width]))

        stem_width = (lambda subnet: self.shape.width) if full else (lambda subnet: subnet.width)
        projected = shared_stem(crop_batches, project, stem_width)
        return [
            self._normalize_and_mask(x, crop_batch.masks, crop_batch.subnet.width)
            for x, crop_batch in zip(projected, crop_batches, strict=True)
        ]

    def _normalize_and_mask(self, x: Tensor, masks: Tensor | None, width: int) -> Tensor:
        x = self.patch_embed.normalize(x, width)
        if masks is None:
            return x
        where = self.masks.upsample(masks, len(x), (x.shape[1], x.shape[2]))
        return torch.where(where.unsqueeze(-1), slicing.leading(self.mask_token, width), x)
