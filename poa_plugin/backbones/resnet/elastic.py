"""The elastic ResNet: inner channels vary in all stages together, depths in the stages with a range."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones import staged
from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features, check_member
from poa_plugin.backbones.intermediate import Layer, layer_indices, layer_of
from poa_plugin.backbones.multi_input import by_subnet, run_where, shared_stem
from poa_plugin.backbones.option_checks import steps
from poa_plugin.backbones.resnet.options import SIZES, ResNetOptions, intact_shape
from poa_plugin.backbones.resnet.plain import (
    STEM_STRIDE,
    Bottleneck,
    ResNet,
    ResNetShape,
    module_path,
)
from poa_plugin.elastic.layers import ElasticLayers, MultiInputBlock
from poa_plugin.elastic.maps import ElasticConv2d, ElasticGroupNorm
from poa_plugin.elastic.norms import normalize
from poa_plugin.elastic.subnet import SearchSpace, Subnet, select_blocks
from poa_plugin.registry import BACKBONES


class ResNetMultiInputBlock(MultiInputBlock, Bottleneck):  # type: ignore[misc]
    """A block that takes all sub-networks of a step in one call; weights are sliced once for each."""

    conv1: ElasticConv2d
    conv2: ElasticConv2d
    conv3: ElasticConv2d
    bn1: ElasticGroupNorm
    bn2: ElasticGroupNorm

    def run(self, maps: list[Tensor], inner: int) -> list[Tensor]:
        """Map the (B, C, H, W) maps of one sub-network's crop batches, with `inner` inner channels."""
        conv1, bn1 = self.conv1.sliced_fn(self.conv1.in_channels, inner), self.bn1.sliced_fn(inner)
        conv2, bn2 = self.conv2.sliced_fn(inner), self.bn2.sliced_fn(inner)
        conv3 = self.conv3.sliced_fn(inner)
        out = []
        for x in maps:
            y = F.relu(bn1(conv1(x)), inplace=True)
            y = F.relu(bn2(conv2(y)), inplace=True)
            out.append(self.join(normalize(self.bn3, conv3(y)), x))
        return out


@BACKBONES.register_as("resnet")
class ElasticResNet(ResNet, staged.StagedBackbone):
    """An elastic ResNet: inner width and depths of every call are those of its sub-network.

    The stem and the outputs of stages have the same width in all members.

    Args:
        shape: the sizes of the intact network.
        widths: inner channels of the first stage; the last is the intact network's.
        min_depths: blocks of each stage of the shallowest member.
        net_select_scale: how much more often the shallowest networks are drawn, at any width.
        decay_shortcut_norm: whether the weights of the shortcuts' norms are decayed, as in the published
            code, which recognizes norms by their names.
    """

    layers = ElasticLayers
    block = ResNetMultiInputBlock
    Options = ResNetOptions

    def __init__(
        self,
        shape: ResNetShape,
        widths: Sequence[int],
        min_depths: Sequence[int],
        net_select_scale: float = 2.0,
        decay_shortcut_norm: bool = False,
    ) -> None:
        stages = math.prod(shape.strides)
        self.masks = staged.MaskGrid(STEM_STRIDE, stages, shape.ibot_scale_factor)
        super().__init__(shape)
        self.decay_shortcut_norm = decay_shortcut_norm
        self.mask_token = nn.Parameter(torch.zeros(1, shape.stem_width, 1, 1))
        ranges = [range(a, b + 1) for a, b in zip(min_depths, shape.depths, strict=True)]
        depths = sorted(itertools.product(*ranges), key=sum)
        times = [int(t) for t in np.round(np.linspace(net_select_scale, 1, len(depths)))]
        self.space = SearchSpace(
            subnets=[Subnet(width, depths=stages) for width in widths for stages in depths],
            multiplicities=times * len(widths),
            aliases=SIZES,
            plain=self.plain,
            blocks=self.member_path,
            image_size=shape.image_size,
        )

    @classmethod
    def from_options(cls, options: ResNetOptions, image_size: int) -> ElasticResNet:
        """See `ElasticBackbone.from_options`."""
        widths = steps("width", options.min_width, options.max_width, options.width_step)
        shape = intact_shape(options, widths, image_size)
        return cls(
            shape,
            widths,
            options.min_depths,
            options.net_select_scale,
            options.decay_shortcut_norm,
        )

    forward = ElasticBackbone.forward
    get_intermediate_layers = ElasticBackbone.get_intermediate_layers  # type: ignore[assignment]

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """See `ElasticBackbone.forward_features_list`."""
        members = by_subnet(crop_batches)
        stems = self._embed_crops(crop_batches)
        maps = [[stems[i] for i in ids] for ids in members.values()]
        del stems
        active = [self.active_blocks(subnet) for subnet in members]
        for s, blocks in enumerate(self._stages):
            inner = [subnet.width * 2**s for subnet in members]
            for i, block in enumerate(blocks):
                maps = run_where(block, maps, [i in ids[s] for ids in active], inner)
        features: dict[int, Features] = {}
        for ids, last_maps in zip(members.values(), maps, strict=True):
            for i, x in zip(ids, last_maps, strict=True):
                last, factor = x.permute(0, 2, 3, 1), self.shape.ibot_scale_factor
                features[i] = staged.outputs(last, last, factor, crop_batches[i].masks)
        return [features[i] for i in range(len(crop_batches))]

    def member_layers_at(
        self, images: Tensor, subnet: Subnet, n: int | Sequence[int], norm: bool
    ) -> list[Layer]:
        """See `ElasticBackbone.member_layers_at`."""
        x, maps = self._embed_crops([CropBatch(images, subnet)]), []
        pairs = zip(self._stages, self.active_blocks(subnet), strict=True)
        for s, (blocks, ids) in enumerate(pairs):
            for i in ids:
                [x] = blocks[i]([x], [subnet.width * 2**s])
            maps.append(x[0].permute(0, 2, 3, 1))
        return [layer_of(maps[i]) for i in layer_indices(n, staged.N_STAGES, "stages")]

    def block_name(self, stage: int, block: int) -> str:
        """See `StagedBackbone.block_name`."""
        return f"layer{stage + 1}.{block}"

    def active_blocks(self, subnet: Subnet) -> list[list[int]]:
        """See `StagedBackbone.active_blocks`."""
        check_member(self.space, subnet)
        pairs = zip(self.shape.depths, subnet.depths, strict=True)
        return [select_blocks(full, depth) for full, depth in pairs]

    def member_path(self, subnet: Subnet) -> list[str]:
        """See `ElasticBackbone.member_path`."""
        return module_path(self.active_blocks(subnet))

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """See `ElasticBackbone.sliced_mask_token`; (1, C, 1, 1), the same for all members."""
        return self.mask_token.detach().clone()

    def feature_width(self, subnet: Subnet | str) -> int:
        """See `ElasticBackbone.feature_width`; the same for all members."""
        self.member(subnet)
        return int(self.shape.out_width * 2 ** (len(self.shape.depths) - 1))

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> ResNet:
        """See `ElasticBackbone.build_plain`."""
        return ResNet(ResNetShape(**options))

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.plain_options`."""
        check_member(self.space, subnet)
        sizes = {"width": subnet.width, "depths": list(subnet.depths)}
        return {**asdict(self.shape), "strides": list(self.shape.strides), **sizes}

    def layer_id(self, parameter: str) -> int:
        """See `ElasticBackbone.layer_id`."""
        if not parameter.startswith("layer"):
            return 0
        stage, block = parameter.removeprefix("layer").split(".")[:2]
        return 1 + sum(self.shape.depths[: int(stage) - 1]) + int(block)

    @property
    def num_layers(self) -> int:
        """See `ElasticBackbone.num_layers`; nothing comes after the last block."""
        return sum(self.shape.depths)

    def decayed_norms(self) -> set[str]:
        """See `ElasticBackbone.decayed_norms`."""
        if not self.decay_shortcut_norm:
            return set()
        return {
            name for name, _ in self.named_parameters() if name.endswith(".downsample.1.weight")
        }

    @property
    def _stages(self) -> list[list[ResNetMultiInputBlock]]:
        names = [f"layer{stage + 1}" for stage in range(staged.N_STAGES)]
        return [list(cast(nn.ModuleList, self.get_submodule(name))) for name in names]  # type: ignore[arg-type]

    def _embed_crops(self, crop_batches: Sequence[CropBatch]) -> list[Tensor]:
        """Run the stem once for each distinct pair of images and masks."""
        return shared_stem(crop_batches, self._embed, lambda subnet: self.shape.stem_width, dim=1)

    def _embed(self, images: Tensor, masks: Tensor | None, width: int) -> Tensor:
        x = self.stem(images)
        if masks is None:
            return x
        where = self.masks.upsample(masks, len(x), (x.shape[2], x.shape[3]))
        return torch.where(where.unsqueeze(1), self.mask_token, x)
