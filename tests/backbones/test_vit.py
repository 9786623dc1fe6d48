"""The vision transformer: many crop batches at once, crop sizes, stochastic depth, attention."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from poa_plugin.backbones import CropBatch, ElasticBackbone, attention
from poa_plugin.backbones.attention import xformers_kernel
from poa_plugin.backbones.build import build_backbone
from poa_plugin.backbones.drop_path import add_residual, draw_drop_path
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import extract
from tests.conftest import SMALL


def test_streams_of_the_same_crops_share_one_stem(
    backbone: ElasticBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = backbone.patch_embed.forward
    monkeypatch.setattr(
        backbone.patch_embed, "forward", lambda x, *w: calls.append(w) or forward(x, *w)
    )
    images = torch.randn(2, 3, 48, 48)
    backbone([CropBatch(images, Subnet(24, 2)), CropBatch(images, Subnet(40, 3))])
    assert calls == [(40,)]


def test_every_gradient_of_a_narrow_network_is_in_its_own_weights(
    backbone: ElasticBackbone,
) -> None:
    subnet = Subnet(32, 2)
    backbone(torch.randn(2, 3, 48, 48), subnet)["x_norm_clstoken"].square().sum().backward()
    assert backbone.blocks[1].attn.qkv.weight.grad is None
    assert backbone.blocks[2].attn.qkv.weight.grad is None
    grad = backbone.blocks[0].mlp.fc1.weight.grad
    assert grad[:128, :32].abs().min() > 0
    assert grad[128:].abs().max() == 0
    assert grad[:, 32:].abs().max() == 0


def test_images_that_do_not_divide_into_patches_are_refused(backbone: ElasticBackbone) -> None:
    with pytest.raises(ValueError, match="50 x 48 pixels do not divide into patches of 8"):
        backbone(torch.randn(1, 3, 50, 48))


@pytest.mark.parametrize("size", [(48, 48), (32, 32), (64, 64), (40, 72), (8, 8)])
def test_intermediate_layers_end_in_the_output(
    backbone: ElasticBackbone, size: tuple[int, int]
) -> None:
    images, subnet = torch.randn(2, 3, *size), Subnet(32, 3)
    plain = extract(backbone, subnet)
    expected = backbone(images, subnet)["x_norm_patchtokens"]
    for network, extra in ((backbone, {"subnet": subnet}), (plain, {})):
        taken = network.get_intermediate_layers(images, 2, **extra)
        assert len(taken) == 2
        torch.testing.assert_close(taken[-1], expected, atol=1e-5, rtol=0)
        [(maps, cls)] = network.get_intermediate_layers(
            images, [2], reshape=True, return_class_token=True, **extra
        )
        assert maps.shape == (2, 32, size[0] // 8, size[1] // 8)
        assert cls.shape == (2, 32)
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), taken[-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.vit.min_width=20"], "do not end at 48"),
        (["student.vit.head_dim=10"], "head dimension 10 does not divide the width 24.*20 and 30"),
        (["student.vit.patch_size=7"], "48 pixels do not divide into patches of 7"),
        (["student.vit.min_depth=5"], "depths 5..4"),
        (["student.vit.mlp_ratio=0.3"], "no whole number"),
    ],
)
def test_contradicting_options_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(default_config([*SMALL, *overrides]))


def test_batch_subset_form_scales_what_it_keeps() -> None:
    [drop_path] = draw_drop_path([0.25], 8, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert drop_path.shape == (2, 6)
    assert drop_path.dtype == torch.long
    x = torch.zeros(8, 3)
    out = add_residual(x, lambda y: torch.ones_like(y), drop_path[0])
    assert sorted(out[:, 0].tolist()) == pytest.approx([0.0] * 2 + [8 / 6] * 6)


def test_plain_form_drops_whole_images() -> None:
    draws = [
        draw_drop_path([0.1], 1000, torch.device("cpu"), torch.Generator().manual_seed(s))[0]
        for s in range(5)
    ]
    factors = torch.cat(draws, dim=1)
    assert sorted(factors.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])
    assert (factors == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert factors.mean().item() == pytest.approx(1.0, abs=0.02)


def test_a_stream_keeps_at_least_one_image() -> None:
    [drop_path] = draw_drop_path([0.9], 1, torch.device("cpu"))
    assert drop_path.shape == (2, 1)


def test_stochastic_depth_is_a_function_of_the_streams_generator() -> None:
    backbone = build_backbone(default_config([*SMALL, "student.vit.drop_path_rate=0.3"])).train()
    images, intact = torch.randn(6, 3, 48, 48), backbone.space.intact

    def run(seed: int, extra: int) -> Tensor:
        torch.rand(extra)
        others = [CropBatch(images, Subnet(24, 2))] * extra
        crop_batch = CropBatch(images, intact, generator=torch.Generator().manual_seed(seed))
        return backbone([*others, crop_batch])[-1]["x_norm_clstoken"]

    assert torch.equal(run(1, 0), run(1, 0))
    torch.testing.assert_close(run(1, 0), run(1, 2), atol=1e-6, rtol=0)
    assert not torch.allclose(run(1, 0), run(2, 0))
    backbone.eval()
    assert torch.equal(run(1, 0), run(2, 0))


def test_rates_rise_linearly_when_they_are_not_uniform() -> None:
    overrides = [*SMALL, "student.vit.drop_path_rate=0.3", "student.vit.drop_path_uniform=false"]
    rates = build_backbone(default_config(overrides)).drop_path_rates
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_residual_stream_keeps_the_parameters_precision(backbone: ElasticBackbone) -> None:
    images, masks = torch.randn(2, 3, 32, 32), torch.rand(2, 16) < 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert backbone(images, Subnet(32, 3), masks)["x_prenorm"].dtype == torch.float32
    half = backbone.bfloat16()(images.bfloat16(), Subnet(32, 3), masks)
    assert half["x_norm_clstoken"].dtype == torch.bfloat16


def _reference(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None = None) -> Tensor:
    """Attention in xFormers' layout, (B, N, H, d)."""
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    if attn_bias is not None:
        logits = logits + attn_bias
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), v)


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_attention_door_on_the_cpu(with_bias: bool) -> None:
    q, k, v = torch.randn(3, 2, 7, 4, 8).unbind(0)
    bias = torch.randn(2, 4, 7, 7) if with_bias else None
    actual = attention.attention(q, k, v, bias)
    torch.testing.assert_close(actual, _reference(q, k, v, bias), atol=1e-5, rtol=0)


def test_the_attention_door_takes_xformers_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for xFormers is called with tensors that say they are on a GPU; not with a tensor bias."""
    calls = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, attn_bias: object = None) -> Tensor:
        calls.append(attn_bias)
        return _reference(*(x.as_subclass(Tensor) for x in (q, k, v)))

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = kernel
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    xformers_kernel.cache_clear()

    class OnGpu(Tensor):
        is_cuda = True

    q, k, v = torch.randn(3, 2, 7, 4, 8).unbind(0)
    on_gpu = [x.as_subclass(OnGpu) for x in (q, k, v)]
    bias = torch.randn(2, 4, 7, 7)
    actual, biased = attention.attention(*on_gpu), attention.attention(*on_gpu, bias)
    xformers_kernel.cache_clear()
    assert calls == [None]
    expected = attention.attention(q, k, v)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    biased = biased.as_subclass(Tensor)
    torch.testing.assert_close(biased, _reference(q, k, v, bias), atol=1e-5, rtol=0)
