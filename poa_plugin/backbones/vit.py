"""The vision transformer, ordinary and elastic, from one definition.

Parameter names are timm's and DINOv2's. The ordinary network is built from ordinary layers and has
no elastic code path; the elastic one is the same blocks built from elastic layers, with a mask token
and a walk that takes many streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poa_plugin.backbones.attention import attention
from poa_plugin.backbones.base import ElasticBackbone, Features, Stream, check_member
from poa_plugin.backbones.stochastic_depth import add_residual, draw_drop_path
from poa_plugin.elastic import slicing
from poa_plugin.elastic.layers import ElasticLayers, Lockstep, PlainLayers
from poa_plugin.elastic.subnet import SearchSpace, Subnet, grid_multiplicities, select_blocks
from poa_plugin.errors import UserError
from poa_plugin.registry import BACKBONES

SIZES = {"small": Subnet(384, 12), "base": Subnet(768, 12), "large": Subnet(1024, 24)}
"""The members of the paper's space that have names of their own (ViT-S, ViT-B, ViT-L)."""


@dataclass
class ViTOptions:
    """Section `student.vit` of the configuration: the paper's ViT-S .. ViT-L by default."""

    min_width: int = 384
    max_width: int = 1024
    width_step: int = 64
    min_depth: int = 12
    max_depth: int = 24
    depth_step: int = 1
    head_dim: int = 64
    patch_size: int = 16
    in_chans: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    layerscale: float | None = 1.0e-05
    drop_path_rate: float = 0.2
    drop_path_uniform: bool = True
    net_select_scale: float = 3.0


@dataclass(frozen=True)
class ViTShape:
    """Constructor arguments that an ordinary and an elastic vision transformer have in common."""

    image_size: int
    patch_size: int
    in_chans: int
    width: int
    depth: int
    head_dim: int
    hidden: int
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    layerscale: float | None = None


class PatchEmbed(nn.Module):
    """Cut images into square patches and project each to a token."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        size = shape.patch_size
        self.proj = layers.stem_conv(shape.in_chans, shape.width, kernel_size=size, stride=size)

    def forward(self, images: Tensor, *width: int) -> Tensor:
        """Map (B, C, H, W) images to (B, N, D) tokens, row by row.

        Raises:
            ValueError: a side of the images is not a multiple of the patch size.
        """
        height, width_, patch = *images.shape[-2:], self.proj.kernel_size[0]
        if height % patch or width_ % patch:
            raise ValueError(
                f"Images of {height} x {width_} pixels do not divide into patches of {patch}."
            )
        return self.proj(images, *width).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention; the number of heads follows the width of the tokens."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        width = shape.width
        self.head_dim = shape.head_dim
        self.qkv = layers.linear(width, 3 * width, shape.qkv_bias, groups=3)
        self.proj = layers.linear(width, width, shape.proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
        return self.proj(attention(q, k, v).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.fc1 = layers.linear(shape.width, shape.hidden, shape.ffn_bias)
        self.fc2 = layers.linear(shape.hidden, shape.width, shape.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale and stochastic depth."""

    def __init__(self, shape: ViTShape, layers: type[PlainLayers]) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(shape.width, eps=1e-6)
        self.attn = Attention(shape, layers)
        self.ls1 = _layer_scale(shape, layers)
        self.norm2 = layers.layer_norm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape, layers)
        self.ls2 = _layer_scale(shape, layers)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D).

        Args:
            x: tokens.
            keep: this block's entry of `draw_drop_path`.
        """
        keep_attn, keep_mlp = (None, None) if keep is None else keep.unbind(0)
        x = add_residual(x, lambda y: self.ls1(self.attn(self.norm1(y))), keep_attn)
        return add_residual(x, lambda y: self.ls2(self.mlp(self.norm2(y))), keep_mlp)


class LockstepBlock(Lockstep, Block):  # type: ignore[misc]
    """A block that takes all streams of a step in one call."""


class VisionTransformer(nn.Module):
    """An ordinary vision transformer (timm's parameter names, DINOv2's outputs).

    Args:
        shape: all sizes.
        drop_path_rates: the stochastic-depth rate of each block, used in training mode.
    """

    layers: type[PlainLayers] = PlainLayers
    block: type[Block] = Block

    def __init__(self, shape: ViTShape, drop_path_rates: Sequence[float] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.drop_path_rates = list(drop_path_rates or [0.0] * shape.depth)
        self.grid_size = shape.image_size // shape.patch_size
        self.patch_embed = PatchEmbed(shape, self.layers)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, shape.width))
        self.blocks = nn.ModuleList(self.block(shape, self.layers) for _ in range(shape.depth))
        self.norm = self.layers.layer_norm(shape.width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the initial weights (DINOv2 `vision_transformer.py`)."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Features:
        """Return DINOv2's outputs for (B, C, H, W) images of any size the patches divide."""
        x = self.embed(images)
        for block, keep in zip(self.blocks, self.draw_drop_path(len(images)), strict=True):
            x = block(x, keep)
        return outputs(x, self.norm(x))

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return the tokens after the last `n` blocks, or after the blocks at the indices `n`.

        DINOv2's method of this name: (B, N, D) patch tokens for each block, as (B, D, h, w) maps if
        `reshape`, paired with (B, D) class tokens if `return_class_token`, through the final norm
        if `norm`.
        """
        wanted, x, taken = _indices(n, len(self.blocks)), self.embed(images), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in wanted:
                taken[i] = self.norm(x) if norm else x
        return _intermediate(
            [taken[i] for i in wanted], images, self.shape.patch_size, reshape, return_class_token
        )

    def embed(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, 1 + N, D) tokens, class token first, positions added."""
        return add_cls_and_position(
            self.patch_embed(images), self.cls_token, self.pos_embed, self._grid(images)
        )

    def draw_drop_path(
        self, batch: int, generator: torch.Generator | None = None
    ) -> list[Tensor | None]:
        """Draw what each block keeps in a forward pass over `batch` images."""
        rates = self.drop_path_rates if self.training else [0.0] * len(self.blocks)
        return draw_drop_path(rates, batch, self.pos_embed.device, generator)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        height, width = (int(side) for side in images.shape[-2:])
        return height // self.shape.patch_size, width // self.shape.patch_size


@BACKBONES.register_as("vit")
class ElasticVisionTransformer(VisionTransformer, ElasticBackbone):
    """An elastic vision transformer: width and depth of every call are those of its sub-network.

    Args:
        shape: the sizes of the intact network.
        space: widths and depths of the members; the last of each is the intact network's.
        net_select_scale: how much more often the smallest network is drawn, for each axis.
        drop_path_rates: the stochastic-depth rate of each block, by its index in the intact network.
    """

    layers = ElasticLayers
    block = LockstepBlock
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
            blocks=lambda subnet: [f"blocks.{i}" for i in self.active_blocks(subnet)],
            image_size=shape.image_size,
        )

    @classmethod
    def from_options(cls, options: ViTOptions, image_size: int) -> ElasticVisionTransformer:
        """See `ElasticBackbone.from_options`."""
        if image_size % options.patch_size:
            raise UserError(
                f"Crops of {image_size} pixels do not divide into patches of {options.patch_size}."
            )
        shape = ViTShape(
            image_size=image_size,
            patch_size=options.patch_size,
            in_chans=options.in_chans,
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
        return cls(
            shape,
            widths=_steps("width", options.min_width, options.max_width, options.width_step),
            depths=_steps("depth", options.min_depth, options.max_depth, options.depth_step),
            net_select_scale=options.net_select_scale,
            drop_path_rates=rates,
        )

    forward = ElasticBackbone.forward

    def walk(self, streams: Sequence[Stream]) -> list[Features]:
        """See `ElasticBackbone.walk`."""
        tokens = self._embed_streams(streams)
        active = [set(self.active_blocks(stream.subnet)) for stream in streams]
        keeps = [self.draw_drop_path(len(s.images), s.generator) for s in streams]
        for i, block in enumerate(self.blocks):
            on = [x if i in ids else None for x, ids in zip(tokens, active, strict=True)]
            ran = block(on, [keep[i] for keep in keeps])
            tokens = [x if y is None else y for x, y in zip(tokens, ran, strict=True)]
        return [
            outputs(x, self.norm(x), stream.masks)
            for x, stream in zip(tokens, streams, strict=True)
        ]

    def get_intermediate_layers(  # type: ignore[override]
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        subnet: Subnet | None = None,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return a sub-network's tokens after blocks; indices count its own blocks.

        See `VisionTransformer.get_intermediate_layers`.
        """
        subnet = subnet or self.space.intact
        ids = self.active_blocks(subnet)
        wanted, taken = _indices(n, len(ids)), {}
        [x] = self._embed_streams([Stream(images, subnet)])
        for i, block_id in enumerate(ids):
            [x] = self.blocks[block_id]([x], [None])
            if i in wanted:
                taken[i] = self.norm(x) if norm else x
        return _intermediate(
            [taken[i] for i in wanted], images, self.shape.patch_size, reshape, return_class_token
        )

    def active_blocks(self, subnet: Subnet) -> list[int]:
        """Return the indices of the blocks that a member keeps (POA eq. 4).

        Raises:
            UserError: the sub-network is not a member of the space.
        """
        check_member(self.space, subnet)
        return select_blocks(self.shape.depth, subnet.depth)

    def sliced(self, share: Fraction) -> dict[str, Tensor]:
        """Return the class token and the positions at a share of the width; no mask token.

        The mask token belongs to pre-training; see `extract`'s `with_heads`.
        """
        width = slicing.active_size(self.shape.width, share)
        tensors = {"cls_token": self.cls_token, "pos_embed": self.pos_embed}
        return {name: slicing.leading(tensor, width) for name, tensor in tensors.items()}

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """See `ElasticBackbone.sliced_mask_token`; (1, d)."""
        return slicing.leading(self.mask_token, subnet.width).detach().clone()

    def feature_width(self, subnet: Subnet) -> int:
        """See `ElasticBackbone.feature_width`."""
        return subnet.width

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
        hidden = slicing.active_size(self.shape.hidden, self.space.share(subnet))
        depth = len(self.active_blocks(subnet))
        return {**asdict(self.shape), "width": subnet.width, "depth": depth, "hidden": hidden}

    def plain_names(self, subnet: Subnet) -> dict[str, str]:
        """See `ElasticBackbone.plain_names`."""
        names = {name: name for name, _ in self.named_modules() if not name.startswith("blocks.")}
        for new, old in enumerate(self.active_blocks(subnet)):
            for name, _ in self.blocks[old].named_modules(prefix=f"blocks.{old}"):
                names[name] = name.replace(f"blocks.{old}", f"blocks.{new}", 1)
        return names

    def timm_description(self, subnet: Subnet) -> dict[str, Any]:
        """See `ElasticBackbone.timm_description`."""
        return timm_description(ViTShape(**self.plain_options(subnet)))

    def layer_id(self, parameter: str) -> int:
        """See `ElasticBackbone.layer_id`."""
        if parameter.startswith("blocks."):
            return int(parameter.split(".")[1]) + 1
        return self.num_layers if parameter.startswith("norm.") else 0

    @property
    def num_layers(self) -> int:
        """See `ElasticBackbone.num_layers`."""
        return self.shape.depth + 1

    def _embed_streams(self, streams: Sequence[Stream]) -> list[Tensor]:
        """Run the stem once for each distinct pair of images and masks, at the widest width asked."""
        stems: dict[tuple[int, int], Tensor] = {}
        widest: dict[tuple[int, int], int] = {}
        keys = [(id(stream.images), id(stream.masks)) for stream in streams]
        for key, stream in zip(keys, streams, strict=True):
            widest[key] = max(widest.get(key, 0), stream.subnet.width)
        for key, stream in zip(keys, streams, strict=True):
            if key not in stems:
                stems[key] = self._embed_at(stream.images, stream.masks, widest[key])
        return [
            slicing.leading(stems[key], stream.subnet.width)
            for key, stream in zip(keys, streams, strict=True)
        ]

    def _embed_at(self, images: Tensor, masks: Tensor | None, width: int) -> Tensor:
        patches = self.patch_embed(images, width)
        if masks is not None:
            mask_token = slicing.leading(self.mask_token, width).to(patches.dtype)
            patches = torch.where(masks.unsqueeze(-1), mask_token, patches)
        cls_token = slicing.leading(self.cls_token, width)
        pos_embed = slicing.leading(self.pos_embed, width)
        return add_cls_and_position(patches, cls_token, pos_embed, self._grid(images))


def add_cls_and_position(
    patches: Tensor, cls_token: Tensor, pos_embed: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Prepend the class token to (B, N, D) patches and add positions; (B, 1 + N, D)."""
    positions = interpolate_position(pos_embed, grid)
    x = torch.cat([cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches], dim=1)
    return x + positions.to(x.dtype)


def interpolate_position(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a (1, 1 + M * M, D) table to (1, 1 + h * w, D).

    Bicubic, not antialiased, with scale factors (n + 0.1) / M as in DINOv2: asking for the output
    size in place of the factor would give other numbers.
    """
    side = math.isqrt(int(pos_embed.shape[1]) - 1)
    if grid == (side, side):
        return pos_embed
    table = pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resized = F.interpolate(table, scale_factor=factors, mode="bicubic")
    if resized.shape[-2:] != grid:
        raise RuntimeError(f"positions were resized to {tuple(resized.shape[-2:])}, not {grid}")
    return torch.cat([pos_embed[:, :1].float(), resized.flatten(2).transpose(1, 2)], dim=1)


def outputs(x_prenorm: Tensor, x_norm: Tensor, masks: Tensor | None = None) -> Features:
    """Name the (B, 1 + N, D) tokens before and after the final norm as DINOv2 does."""
    return {
        "x_norm_clstoken": x_norm[:, 0],
        "x_norm_patchtokens": x_norm[:, 1:],
        "x_prenorm": x_prenorm,
        "masks": masks,
    }


def timm_description(shape: ViTShape) -> dict[str, Any]:
    """Return the `config.json` entries with which stock timm builds a network of this shape.

    Raises:
        UserError: timm has no argument for MLPs without biases.
    """
    if not shape.ffn_bias:
        raise UserError("timm's vision transformer has no argument for ffn_bias: false.")
    return {
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
        "pretrained_cfg": {
            "input_size": [shape.in_chans, shape.image_size, shape.image_size],
            "num_classes": 0,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _layer_scale(shape: ViTShape, layers: type[PlainLayers]) -> nn.Module:
    if shape.layerscale is None:
        return nn.Identity()
    return layers.layer_scale(shape.width, shape.layerscale)


def _intermediate(
    tokens: list[Tensor], images: Tensor, patch: int, reshape: bool, return_class_token: bool
) -> tuple[Any, ...]:
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    patches = [x[:, 1:] for x in tokens]
    if reshape:
        patches = [x.transpose(1, 2).unflatten(2, grid).contiguous() for x in patches]
    if return_class_token:
        return tuple(zip(patches, [x[:, 0] for x in tokens], strict=True))
    return tuple(patches)


def _mlp_ratio(shape: ViTShape) -> float:
    """Return the ratio from which timm's truncating arithmetic gets the hidden width."""
    ratio = shape.hidden / shape.width
    return ratio if int(shape.width * ratio) == shape.hidden else (shape.hidden + 0.5) / shape.width


def _indices(n: int | Sequence[int], depth: int) -> list[int]:
    wanted = list(range(depth - n, depth)) if isinstance(n, int) else list(n)
    if any(not 0 <= i < depth for i in wanted):
        raise ValueError(f"A network of {depth} blocks has no blocks {wanted}.")
    return wanted


def _steps(what: str, low: int, high: int, step: int) -> list[int]:
    if not 0 < low <= high or step <= 0 or (high - low) % step:
        raise UserError(
            f"The {what}s {low}..{high} in steps of {step} do not end at {high}, the intact "
            f"network's {what}: choose min_{what}, max_{what} and {what}_step so that they do."
        )
    return list(range(low, high + 1, step))


def _check_space(shape: ViTShape, widths: Sequence[int], depths: Sequence[int]) -> None:
    for width in widths:
        if width % shape.head_dim:
            below, above = width // shape.head_dim, width // shape.head_dim + 1
            raise UserError(
                f"The head dimension {shape.head_dim} does not divide the width {width}: the "
                f"nearest widths are {below * shape.head_dim} and {above * shape.head_dim}."
            )
        if shape.hidden * width % shape.width:
            raise UserError(
                f"An MLP of {shape.hidden} units at width {shape.width} has no whole number of "
                f"units at width {width}: choose another mlp_ratio."
            )
    if widths[-1] != shape.width or depths[-1] != shape.depth:
        raise UserError("The last width and depth of a search space must be the intact network's.")
