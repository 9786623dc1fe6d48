"""Crop batches of one sub-network packed into one row of tokens: the same as each by itself."""

from __future__ import annotations

import itertools
import math
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from poa_plugin.backbones import CropBatch, ElasticBackbone, attention
from poa_plugin.backbones.attention import packed_attention, xformers_kernel
from poa_plugin.backbones.build import build_backbone
from poa_plugin.backbones.drop_path import add_packed_residual, add_residual, draw_drop_path
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.elastic import Subnet
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES

LAYOUT = ((3, 7), (4, 2), (1, 5))


def apart(x: Tensor) -> list[Tensor]:
    parts = x.split([images * n for images, n in LAYOUT])
    return [part.unflatten(0, size) for part, size in zip(parts, LAYOUT, strict=True)]


def together(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(0, 1) for part in parts])


def test_packed_attention_keeps_images_apart() -> None:
    qkv = torch.randn(3 * 7 + 4 * 2 + 5, 3, 4, 8)
    expected = together([attention.attention(*part.unbind(2)) for part in apart(qkv)])
    actual = torch.cat(packed_attention(qkv, LAYOUT))
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_packed_attention_on_a_gpu_takes_one_call_under_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stand-ins for xFormers' kernel and mask are called with tensors that say they are on a GPU."""

    class Mask:
        @staticmethod
        def from_seqlens(lengths: list[int]) -> Tensor:
            return torch.block_diag(*[torch.ones(n, n) for n in lengths]).log()

    def kernel(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor) -> Tensor:
        q, k, v = (x.as_subclass(Tensor).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.mT * q.shape[-1] ** -0.5 + attn_bias
        return (logits.softmax(-1) @ v).transpose(1, 2)

    ops, fmha = types.ModuleType("xformers.ops"), types.ModuleType("xformers.ops.fmha")
    ops.memory_efficient_attention, fmha.BlockDiagonalMask = kernel, Mask
    for name, module in (("xformers.ops", ops), ("xformers.ops.fmha", fmha)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    xformers_kernel.cache_clear()

    class OnGpu(Tensor):
        is_cuda = True

    qkv = torch.randn(3 * 7 + 4 * 2 + 5, 3, 4, 8)
    [actual] = packed_attention(qkv.as_subclass(OnGpu), LAYOUT)
    xformers_kernel.cache_clear()
    attention.block_diagonal_mask.cache_clear()
    expected = torch.cat(packed_attention(qkv, LAYOUT))
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_packed_residuals(rate: float) -> None:
    """Rates up to 0.1 scale images, higher ones take a subset of them."""
    x = torch.randn(3 * 7 + 4 * 2 + 5, 6)
    generator = torch.Generator().manual_seed(1)
    drop_paths = []
    for images, _ in LAYOUT:
        [drop_path] = draw_drop_path([rate], images, torch.device("cpu"), generator)
        drop_paths.append(None if drop_path is None else drop_path[0])
    expected = together(
        [
            add_residual(part, lambda y: y.mean(1, keepdim=True) + y, drop_path)
            for part, drop_path in zip(apart(x), drop_paths, strict=True)
        ]
    )

    def branch(y: Tensor, layout: attention.Layout) -> Tensor:
        parts = y.split([images * n for images, n in layout])
        sized = [part.unflatten(0, size) for part, size in zip(parts, layout, strict=True)]
        return together([part.mean(1, keepdim=True) + part for part in sized])

    actual = add_packed_residual(x, branch, LAYOUT, drop_paths)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.08, 0.3])
@pytest.mark.parametrize("family", ["vit", "swin", "resnet"])
def test_tokens_that_are_read_are_those_of_all(family: str, rate: float) -> None:
    """Outputs and gradients of class tokens and some patches, with both forms of stochastic depth."""
    overrides = [] if family == "resnet" else [f"student.{family}.drop_path_rate={rate}"]
    config = default_config([*FAMILIES[family], *overrides])
    backbone: ElasticBackbone = randomize(build_backbone(config)).train()
    subnets = [backbone.space.intact, next(iter(backbone.space))]
    draws = torch.Generator().manual_seed(0)
    size = config.crops.global_crops_size
    large, small = (torch.randn(n, 3, s, s, generator=draws) for n, s in ((3, size), (5, 32)))
    n_patches = math.prod(backbone.mask_grid(size))
    some = torch.tensor([0, 5, 2 * n_patches - 1, n_patches + 1, 3 * n_patches - 2])

    def crop_batches(read: bool) -> list[CropBatch]:
        pairs = [(large, some), (small, some[:0]), (large, None)]
        return [
            CropBatch(images, subnet, None, torch.Generator().manual_seed(i), ids if read else None)
            for i, (subnet, (images, ids)) in enumerate(itertools.product(subnets, pairs))
        ]

    def outcome(read: bool) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
        tokens = []
        for features, crop_batch in zip(
            backbone(crop_batches(read)), crop_batches(True), strict=True
        ):
            ids, patches = crop_batch.patch_ids, features["x_norm_patchtokens"]
            if ids is not None and not read:
                patches = patches.flatten(0, 1)[ids]
            tokens += [features["x_norm_clstoken"], patches]
        weights = torch.Generator().manual_seed(1)
        loss = sum((x * torch.randn(x.shape, generator=weights)).sum() for x in tokens)
        return tokens, torch.autograd.grad(loss, list(backbone.parameters()), allow_unused=True)

    (all_tokens, all_grads), (read_tokens, read_grads) = outcome(False), outcome(True)
    for ours, theirs in zip(read_tokens, all_tokens, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(read_grads, all_grads, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = max(float(theirs.abs().max()), 1)
            torch.testing.assert_close(ours, theirs, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.08, 0.3])
def test_streams_together_are_streams_apart(
    small_config: Callable[..., Config], rate: float
) -> None:
    """Outputs and gradients, of two sub-networks with crop batches of several sizes."""
    backbone: ElasticBackbone = randomize(
        build_backbone(small_config(f"student.vit.drop_path_rate={rate}"))
    ).train()

    def crop_batches() -> list[CropBatch]:
        generator = torch.Generator().manual_seed(0)
        large = torch.randn(3, 3, 48, 48, generator=generator)
        small = torch.randn(5, 3, 32, 32, generator=generator)
        masks = torch.rand(3, 36, generator=generator) < 0.4
        return [
            CropBatch(images, subnet, mask, torch.Generator().manual_seed(i))
            for i, (subnet, images, mask) in enumerate(
                (subnet, images, mask)
                for subnet in (Subnet(48, 4), Subnet(32, 3), Subnet(48, 2))
                for images, mask in ((large, masks), (small, None))
            )
        ]

    def gradients(features: list) -> list[Tensor]:
        loss = sum(f["x_norm_clstoken"].sum() + f["x_prenorm"].square().mean() for f in features)
        return torch.autograd.grad(loss, list(backbone.parameters()), allow_unused=True)

    together_, apart_ = backbone(crop_batches()), [backbone([s])[0] for s in crop_batches()]
    for ours, theirs in zip(together_, apart_, strict=True):
        torch.testing.assert_close(ours["x_prenorm"], theirs["x_prenorm"], atol=1e-5, rtol=0)
    for ours, theirs in zip(gradients(together_), gradients(apart_), strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=1e-5 * max(scale, 1), rtol=0)
