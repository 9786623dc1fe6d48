"""The elastic Swin: widths vary in all stages together, depth in the third."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn

from poa_plugin.backbones import staged
from poa_plugin.backbones.base import ElasticBackbone, Features, Stream, check_member
from poa_plugin.backbones.elastic_swin_block import (
    ElasticPatchEmbed,
    LockstepMerging,
    LockstepSwinBlock,
)
from poa_plugin.backbones.formats import TimmDescription
from poa_plugin.backbones.spaces import check_heads, check_patches, check_stages, steps
from poa_plugin.backbones.stochastic_depth import draw_drop_path
from poa_plugin.backbones.streams import by_subnet, shared_stem
from poa_plugin.backbones.swin import PatchEmbed, Stage, SwinShape, SwinTransformer, module_path
from poa_plugin.backbones.swin_formats import timm_description
from poa_plugin.backbones.windows import MapLayout, split_maps, windows
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayers, Lockstep, PlainLayers
from poa_plugin.elastic.subnet import SearchSpace, Subnet, grid_multiplicities, select_blocks
from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.registry import BACKBONES

SIZES = {"tiny": Subnet(96, 6), "small": Subnet(96, 18), "base": Subnet(128, 18)}
"""The members of the paper's space that have names of their own (Swin-T, Swin-S, Swin-B)."""
ELASTIC_STAGE = 2
"""The stage whose depth varies."""
PATCH_NORMS = ("active", "full")


@dataclass
class SwinOptions:
    """Section `student.swin` of the configuration: the paper's Swin-T .. Swin-B by default.

    Every other block of the `shifted_stages` is shifted. timm's and the original Swin leave out stages whose
    map is a single window.
    """

    min_width: int = 96
    max_width: int = 128
    width_step: int = 16
    min_depth: int = 6
    depth_step: int = 1
    max_depths: list[int] = field(default_factory=lambda: [2, 2, 18, 2])
    head_dim: int = 16
    window_size: int = 7
    shifted_stages: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    patch_size: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: str = "active"
    drop_path_rate: float = 0.2
    net_select_scale: float = 2.0
    ibot_scale_factor: int = 2


@BACKBONES.register_as("swin")
class ElasticSwinTransformer(SwinTransformer, ElasticBackbone):
    """An elastic Swin: width and depth of every call are those of its sub-network.

    `norm0`, `norm1` and `norm2` are for features of earlier stages; pre-training does not use them.

    Args:
        shape: the sizes of the intact network.
        widths, depths: of the members, the depth that of the third stage; the last of each is the
            intact network's.
        patch_norm: `active` normalises the channels that a sub-network has; `full`, which the published
            code does, all of the intact network's, of which the sub-network then takes its own.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        drop_path_rate: of the last block; it rises linearly from 0 over all blocks of the intact network.
    """

    layers_of = ElasticLayers
    block = LockstepSwinBlock
    merging = LockstepMerging
    Options = SwinOptions

    def __init__(
        self,
        shape: SwinShape,
        widths: Sequence[int],
        depths: Sequence[int],
        patch_norm: str = "active",
        net_select_scale: float = 2.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        for width in widths:
            check_heads(width, shape.head_dim)
            if shape.hidden * width % shape.width:
                raise UserError(
                    f"An MLP of {shape.hidden} units at width {shape.width} has no whole number of "
                    f"units at width {width}: choose another mlp_ratio."
                )
        self.patch_norm = patch_norm
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
        check_patches((image_size, image_size), options.patch_size)
        staged.check_scale(options.ibot_scale_factor)
        if options.patch_norm not in PATCH_NORMS:
            raise UserError(
                f"The option student.swin.patch_norm is '{options.patch_norm}': "
                f"{did_you_mean(options.patch_norm, PATCH_NORMS)}."
            )
        depths = check_stages("student.swin.max_depths", options.max_depths, staged.N_STAGES)
        shape = SwinShape(
            image_size=image_size,
            patch_size=options.patch_size,
            width=options.max_width,
            stem_width=options.max_width,
            shifts=_shifts(depths, options),
            head_dim=options.head_dim,
            window=options.window_size,
            hidden=int(options.max_width * options.mlp_ratio),
            qkv_bias=options.qkv_bias,
            ibot_scale_factor=options.ibot_scale_factor,
        )
        return cls(
            shape,
            widths=steps("width", options.min_width, options.max_width, options.width_step),
            depths=steps("depth", options.min_depth, depths[ELASTIC_STAGE], options.depth_step),
            patch_norm=options.patch_norm,
            net_select_scale=options.net_select_scale,
            drop_path_rate=options.drop_path_rate,
        )

    forward = ElasticBackbone.forward

    def build_patch_embed(self) -> PatchEmbed:
        """Build the patch embedding; a `full` one is cut after its norm, so its own layers are ordinary."""
        if self.patch_norm == "full":
            return PatchEmbed(self.shape, PlainLayers)
        return ElasticPatchEmbed(self.shape, self.layers_of)

    def walk(self, streams: Sequence[Stream]) -> list[Features]:
        """See `ElasticBackbone.walk`.

        The streams of one sub-network are packed: a layer multiplies all their tokens at once, and its
        weights get one gradient.
        """
        members = by_subnet(streams)
        maps = self._embed_streams(streams)
        packed: list[Tensor] = []
        layouts: list[MapLayout] = []
        for ids in members.values():
            packed.append(torch.cat([maps[i].flatten(0, 2) for i in ids]))
            layouts.append(tuple((len(maps[i]), *maps[i].shape[1:3]) for i in ids))
        del maps
        keeps = [self._draw_drop_path([streams[i] for i in ids]) for ids in members.values()]
        active = [self.active_blocks(subnet) for subnet in members]
        first = 0
        for s, stage in enumerate(self._stages):
            if s:
                packed = stage.downsample(packed, layouts)
                layouts = [tuple((n, -(-h // 2), -(-w // 2)) for n, h, w in own) for own in layouts]
            on = [set(blocks[s]) for blocks in active]
            packed = self._run_stage(stage.blocks, packed, layouts, on, [k[first:] for k in keeps])
            first += len(stage.blocks)
        found: dict[int, Features] = {}
        for x, ids, layout in zip(packed, members.values(), layouts, strict=True):
            parts = zip(ids, split_maps(x, layout), split_maps(self.norm(x), layout), strict=True)
            for i, before, after in parts:
                factor, masks = self.shape.ibot_scale_factor, streams[i].masks
                found[i] = staged.outputs(before, after, factor, masks)
        return [found[i] for i in range(len(streams))]

    def _run_stage(
        self,
        blocks: nn.ModuleList,
        packed: list[Tensor],
        layouts: Sequence[MapLayout],
        on: Sequence[set[int]],
        keeps: Sequence[Sequence[Sequence[Tensor | None]]],
    ) -> list[Tensor]:
        """Run the blocks of a stage over the packed tokens of each sub-network."""
        own_blocks = [cast(LockstepSwinBlock, block) for block in blocks]
        laid = {
            shift: [windows(own, self.shape.window, shift, packed[0]) for own in layouts]
            for shift in sorted({block.shift for block in own_blocks})
        }
        for i, block in enumerate(own_blocks):
            given = [x if i in ids else None for x, ids in zip(packed, on, strict=True)]
            ran = block(given, laid[block.shift], [keep[i] for keep in keeps])
            packed = [x if y is None else y for x, y in zip(packed, ran, strict=True)]
        return packed

    def get_intermediate_layers(  # type: ignore[override]
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        subnet: Subnet | None = None,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return a sub-network's maps after stages, each through its stage's norm if `norm`.

        See `SwinTransformer.get_intermediate_layers`.
        """
        subnet = subnet or self.space.intact
        [x] = self._embed_streams([Stream(images, subnet)])
        maps = []
        for s, (stage, ids) in enumerate(
            zip(self._stages, self.active_blocks(subnet), strict=True)
        ):
            layout: MapLayout = ((len(x), *x.shape[1:3]),)
            if s:
                [merged] = stage.downsample([x.flatten(0, 2)], [layout])
                layout = tuple((n, -(-h // 2), -(-w // 2)) for n, h, w in layout)
                x = merged.unflatten(0, layout[0])
            keeps = [[[None]] * len(stage.blocks)]
            [out] = self._run_stage(stage.blocks, [x.flatten(0, 2)], [layout], [set(ids)], keeps)
            x = out.unflatten(0, layout[0])
            own = self.norm if s == len(self.layers) - 1 else self.get_submodule(f"norm{s}")
            maps.append(own(x) if norm else x)
        wanted = staged.wanted_stages(n)
        return staged.intermediate([maps[i] for i in wanted], reshape, return_class_token)

    def active_blocks(self, subnet: Subnet) -> list[list[int]]:
        """Return the indices of the blocks that a member keeps in each stage (POA eq. 4).

        Raises:
            UserError: the sub-network is not a member of the space.
        """
        check_member(self.space, subnet)
        full = [len(shifts) for shifts in self.shape.shifts]
        return [
            select_blocks(n, subnet.depth if s == ELASTIC_STAGE else n) for s, n in enumerate(full)
        ]

    def member_path(self, subnet: Subnet) -> list[str]:
        """See `ElasticBackbone.member_path`."""
        return module_path(self.active_blocks(subnet))

    def sliced(self, share: Fraction) -> dict[str, Tensor]:
        """Return nothing: the only parameter outside modules is the mask token, which is pre-training's."""
        return {}

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """See `ElasticBackbone.sliced_mask_token`; (1, d)."""
        return slicing.leading(self.mask_token, subnet.width).detach().clone()

    def lockstep_blocks(self) -> list[Lockstep]:
        """See `ElasticBackbone.lockstep_blocks`."""
        return [module for module in self.modules() if isinstance(module, Lockstep)]

    def feature_width(self, subnet: Subnet) -> int:
        """See `ElasticBackbone.feature_width`."""
        return int(subnet.width * 2 ** (staged.N_STAGES - 1))

    def check_image_size(self, image_size: int) -> None:
        """See `ElasticBackbone.check_image_size`."""
        check_patches((image_size, image_size), self.shape.patch_size)

    def mask_grid(self, image_size: int) -> tuple[int, int]:
        """See `ElasticBackbone.mask_grid`."""
        side = staged.mask_side(image_size, self.shape.ibot_scale_factor)
        return side, side

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> SwinTransformer:
        """See `ElasticBackbone.build_plain`."""
        return SwinTransformer(SwinShape(**options))

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.plain_options`; a block keeps its own shift when others are left out."""
        shifts = zip(self.shape.shifts, self.active_blocks(subnet), strict=True)
        return {
            **asdict(self.shape),
            "width": subnet.width,
            "stem_width": self.shape.width if self.patch_norm == "full" else subnet.width,
            "shifts": [[own[i] for i in ids] for own, ids in shifts],
            "hidden": slicing.active_size(self.shape.hidden, self.space.share(subnet)),
        }

    def plain_names(self, subnet: Subnet) -> dict[str, str]:
        """See `ElasticBackbone.plain_names`."""
        unused = tuple(f"norm{stage}" for stage in range(staged.N_STAGES - 1))
        renamed = {
            f"layers.{s}.blocks.{old}": f"layers.{s}.blocks.{new}"
            for s, ids in enumerate(self.active_blocks(subnet))
            for new, old in enumerate(ids)
        }
        names = {}
        for name, _ in self.named_modules():
            block = ".".join(name.split(".")[:4])
            if ".blocks." not in name:
                if name not in unused:
                    names[name] = name
            elif block in renamed:
                names[name] = renamed[block] + name.removeprefix(block)
        return names

    @staticmethod
    def timm_description(options: Mapping[str, Any]) -> TimmDescription:
        """See `ElasticBackbone.timm_description`."""
        return timm_description(SwinShape(**options))

    def layer_id(self, parameter: str) -> int:
        """See `ElasticBackbone.layer_id`; a merging stands where the first block after it does."""
        parts = parameter.split(".")
        if parts[0] != "layers":
            return self.num_layers if parts[0].startswith("norm") else 0
        before = sum(len(shifts) for shifts in self.shape.shifts[: int(parts[1])])
        return before + 1 + (int(parts[3]) if parts[2] == "blocks" else 0)

    @property
    def num_layers(self) -> int:
        """See `ElasticBackbone.num_layers`."""
        return 1 + sum(len(shifts) for shifts in self.shape.shifts)

    @property
    def _stages(self) -> list[Stage]:
        return [cast(Stage, stage) for stage in self.layers]

    def _draw_drop_path(self, streams: Sequence[Stream]) -> list[tuple[Tensor | None, ...]]:
        """Draw what each block keeps of each stream, image by image: for each block, an entry a stream."""
        rates = self.drop_path_rates if self.training else [0.0] * len(self.drop_path_rates)
        drawn = [
            draw_drop_path(
                rates, len(own.images), self.mask_token.device, own.generator, subset_above=1
            )
            for own in streams
        ]
        return list(zip(*drawn, strict=True))

    def _embed_streams(self, streams: Sequence[Stream]) -> list[Tensor]:
        """Run the patch convolution once for the same images, norm and mask for each width."""
        full = self.patch_norm == "full"

        def project(images: Tensor, masks: Tensor | None, width: int) -> Tensor:
            return self.patch_embed.project(images, *([] if full else [width]))

        stem_width = (lambda subnet: self.shape.width) if full else (lambda subnet: subnet.width)
        projected = shared_stem(streams, project, stem_width)
        return [
            self._normalise_and_mask(x, stream.masks, stream.subnet.width)
            for x, stream in zip(projected, streams, strict=True)
        ]

    def _normalise_and_mask(self, x: Tensor, masks: Tensor | None, width: int) -> Tensor:
        x = self.patch_embed.normalise(x, width)
        if masks is None:
            return x
        size = (x.shape[1], x.shape[2])
        where = staged.spread_masks(masks, size, self.shape.ibot_scale_factor)
        return torch.where(where.unsqueeze(-1), slicing.leading(self.mask_token, width), x)


def _shifts(depths: Sequence[int], options: SwinOptions) -> list[list[int]]:
    """Return the shift of every block, by stage."""
    shifted = set(options.shifted_stages)
    if not shifted <= set(range(staged.N_STAGES)):
        raise UserError(
            f"The option student.swin.shifted_stages is {sorted(shifted)}: the stages are 0, 1, 2 and 3."
        )
    shift = options.window_size // 2
    return [[(s in shifted) * (i % 2) * shift for i in range(n)] for s, n in enumerate(depths)]
