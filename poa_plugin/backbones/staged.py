"""Shared code of backbones with stages of feature maps: masks on a finer grid, outputs, intermediates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone, Features
from poa_plugin.backbones.inputs import check_masks
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError

N_STAGES = 4


@dataclass(frozen=True)
class MaskGrid:
    """The grid of masks beside the maps of the stem and of the last stage.

    Args:
        stem: stride of the stem's map in pixels.
        stages: stride of the last stage's map in cells of the stem's map.
        factor: how often, in each direction, the last map is upsampled to meet the grid of masks.

    Raises:
        UserError: a mask would cover a fraction of a cell of the stem's map.
    """

    stem: int
    stages: int
    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1 or self.stages % self.factor:
            factors = [str(n) for n in range(1, self.stages + 1) if self.stages % n == 0]
            raise UserError(
                f"The option ibot_scale_factor is {self.factor}: the last map can be upsampled "
                f"{' or '.join(filter(None, (', '.join(factors[:-1]), factors[-1])))} times to meet the grid "
                f"of masks."
            )

    def side(self, image_size: int) -> int:
        """Return the rows of the grid for square images.

        Raises:
            UserError: the upsampled last map would not match that grid.
        """
        stride = self.stem * self.stages
        if image_size % stride:
            below = image_size // stride
            raise UserError(
                f"Masks need global crops of a multiple of {stride} pixels, not {image_size}: the nearest "
                f"sizes are {max(below, 1) * stride} and {(below + 1) * stride}."
            )
        return image_size * self.factor // stride

    def upsample(self, masks: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
        """Upsample (B, N) masks to the (height, width) cells of the stem's map: (B, height, width).

        Raises:
            UserError: the masks do not fit a batch of such images.
        """
        cells = self.stages // self.factor
        rows, columns = size[0] // cells, size[1] // cells
        if size != (rows * cells, columns * cells):
            raise UserError(
                f"Masks need images whose sides are multiples of {self.stem * cells} pixels: the stem's map is "
                f"{size[0]} x {size[1]}, and a mask covers {cells} x {cells} cells of it."
            )
        check_masks(masks, batch, (rows, columns))
        grid = masks.view(batch, rows, 1, columns, 1)
        return grid.expand(-1, -1, cells, -1, cells).reshape(batch, *size)


class StagedBackbone(ElasticBackbone):
    """An elastic backbone with blocks in stages.

    Attributes:
        masks: the grid of masks.
        unused: modules that an ordinary network lacks.
    """

    masks: MaskGrid
    unused: Collection[str] = ()

    def block_name(self, stage: int, block: int) -> str:
        """Return the name of a block's module."""
        raise NotImplementedError

    def active_blocks(self, subnet: Subnet) -> list[list[int]]:
        """Return the indices of a member's blocks in each stage (POA eq. 4).

        Raises:
            UserError: the sub-network is not a member of the space.
        """
        raise NotImplementedError

    def sliced(self, width_ratio: Fraction) -> dict[str, Tensor]:
        """Return nothing: the only parameter outside modules, the mask token, is for pre-training."""
        return {}

    def mask_grid(self, image_size: int) -> tuple[int, int]:
        """See `ElasticBackbone.mask_grid`."""
        side = self.masks.side(image_size)
        return side, side

    def plain_names(self, subnet: Subnet) -> dict[str, str]:
        """See `ElasticBackbone.plain_names`."""
        kept = self.active_blocks(subnet)
        new = self._block_names([range(len(ids)) for ids in kept])
        renamed = dict(zip(self._block_names(kept), new, strict=True))
        all_blocks = self._block_names(self.active_blocks(self.space.intact))
        n_levels = all_blocks[0].count(".") + 1
        names = {}
        for name, _ in self.named_modules():
            block = ".".join(name.split(".")[:n_levels])
            if block in renamed:
                names[name] = renamed[block] + name.removeprefix(block)
            elif block not in all_blocks and name not in self.unused:
                names[name] = name
        return names

    def _block_names(self, blocks: Sequence[Sequence[int]]) -> list[str]:
        return [self.block_name(stage, i) for stage, ids in enumerate(blocks) for i in ids]


def outputs(
    x_prenorm: Tensor, x_norm: Tensor, factor: int, masks: Tensor | None = None
) -> Features:
    """Name the last maps as DINOv2 names tokens.

    Args:
        x_prenorm, x_norm: (B, h, w, D) maps before and after the final norm.
        factor: how often, in each direction, the map is upsampled to give the patch tokens.
        masks: (B, N) or None.

    Returns:
        `x_norm_clstoken` (B, D), the mean over the map; `x_norm_patchtokens` (B, N, D), the map upsampled
        by `factor`, each cell to its nearest, row by row; `x_prenorm` (B, h * w, D).
    """
    b, h, w, d = x_norm.shape
    patches = x_norm[:, :, None, :, None].expand(-1, -1, factor, -1, factor, -1)
    return {
        "x_norm_clstoken": x_norm.mean((1, 2)),
        "x_norm_patchtokens": patches.reshape(b, h * factor * w * factor, d),
        "x_prenorm": x_prenorm.flatten(1, 2),
        "masks": masks,
    }
