"""Small backbones and batches to try laws on."""

from __future__ import annotations

import random
from typing import TypeVar

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.schema import Config
from poa_plugin.device import on_meta
from poa_plugin.elastic.subnet import SearchSpace, Subnet

M = TypeVar("M", bound=nn.Module)
NORMS = (nn.LayerNorm, nn.GroupNorm)


def assert_close(actual: Tensor | None, expected: Tensor | None) -> None:
    """Assert that two computations of the same features differ by no more than rounding."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def random_backbone(config: Config) -> ElasticBackbone:
    """Return the backbone of a configuration in evaluation mode, its weights far from their initial ones."""
    return randomize(build_backbone(config)).eval()


def randomize(module: M, seed: int = 0) -> M:
    """Draw all parameters anew, so that no part of the module is too small to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for submodule in module.modules():
            for name, parameter in submodule.named_parameters(recurse=False):
                values = torch.randn(parameter.shape, generator=generator)
                offset = 1.0 if isinstance(submodule, NORMS) and name == "weight" else 0.0
                scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.2
                parameter.copy_(offset + scale * values)
    return module


def middle(space: SearchSpace) -> Subnet:
    """Return a member that is neither the widest nor the narrowest, neither the deepest nor the shallowest."""
    widths = space.widths
    of_width = [subnet for subnet in space if subnet.width == widths[len(widths) // 2]]
    return of_width[len(of_width) // 2]


def members_to_check(space: SearchSpace, count: int = 20) -> list[Subnet]:
    """Return the four corners of a space and, at random, as many others as asked for or there are."""
    members = list(space)
    by_width = [
        [subnet for subnet in members if subnet.width == width] for width in space.widths[::-1]
    ]
    corners = [of_width[i] for of_width in (by_width[-1], by_width[0]) for i in (0, -1)]
    others = [subnet for subnet in members if subnet not in corners]
    return [*dict.fromkeys(corners), *random.Random(0).sample(others, min(count, len(others)))]


def random_images(config: Config, batch: int = 2, local: bool = False, seed: int = 0) -> Tensor:
    """Return (B, 3, S, S) noise of the size of global or local crops."""
    side = config.crops.local_crops_size if local else config.crops.global_crops_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def random_masks(config: Config, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Return (B, N) masks of global crops, drawn from a generator of their own if none is given."""
    with on_meta():
        rows, columns = build_backbone(config).mask_grid(config.crops.global_crops_size)
    generator = generator or torch.Generator().manual_seed(0)
    return torch.rand(batch, rows * columns, generator=generator) < 0.4


def random_batch(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """Return one shard's batch of noise, half of its global crops masked."""
    generator = torch.Generator().manual_seed(seed)
    crops, batch = config.crops, config.train.batch_size_per_shard
    masks = random_masks(config, 2 * batch, generator)
    masks[::2] = False
    views = {"global": (2, crops.global_crops_size)}
    views["local"] = (crops.local_crops_number, crops.local_crops_size)
    images = {
        f"collated_{name}_crops": torch.randn(n * batch, 3, side, side, generator=generator)
        for name, (n, side) in views.items()
    }
    return {**images, "collated_masks": masks}
