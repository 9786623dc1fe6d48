"""Swin: windows, shifts, merging, the patch norm, and wrong options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import poa_plugin as poa
from poa_plugin.backbones import CropBatch, ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.backbones.swin import windows as windows_module
from poa_plugin.backbones.swin.plain import space_to_depth
from poa_plugin.backbones.swin.windows import (
    BORDER,
    packed_windows,
    relative_bias,
    relative_positions,
    shift_mask,
    window_partition,
    window_reverse,
)
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.formats import formats_of
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES

SWIN = FAMILIES["swin"]
LAYOUT = ((2, 5, 7), (3, 4, 4), (1, 2, 9))


def build(*overrides: str) -> ElasticBackbone:
    return randomize(build_backbone(default_config([*SWIN, *overrides]))).eval()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(6, 9), (5, 7), (2, 2), (1, 10)])
def test_windows_are_padded_then_rolled_and_undone(size: tuple[int, int], shift: int) -> None:
    x = torch.randn(2, *size, 4)
    windows = window_partition(x, 3, shift)
    assert windows.shape[1] == 9
    assert torch.equal(window_reverse(windows, 3, shift, size), x)
    padded = F.pad(x, (0, 0, 0, -size[1] % 3, 0, -size[0] % 3)).roll((-shift, -shift), (1, 2))
    assert torch.equal(windows[0].view(3, 3, 4), padded[0, :3, :3])


@pytest.mark.parametrize("shift", [0, 1])
def test_packed_windows_are_those_of_each_map(shift: int) -> None:
    maps = [torch.randn(*size, 4) for size in LAYOUT]
    packed = torch.cat([x.flatten(0, 2) for x in maps]).requires_grad_()
    windows = packed_windows(LAYOUT, 3, shift, packed)
    rows = windows.partition(packed)
    expected = torch.cat([window_partition(x, 3, shift).flatten(0, 1) for x in maps])
    assert torch.equal(rows, expected)
    assert torch.equal(windows.reverse(rows), packed)
    weights = torch.randn_like(rows)
    (windows.partition(packed) * weights).sum().backward()
    assert torch.equal(packed.grad, windows.reverse(weights))
    assert windows.window_layout == tuple((len(window_partition(x, 3, shift)), 9) for x in maps)
    for size, mask in zip(LAYOUT, windows.masks, strict=True):
        if shift:
            expected = shift_mask(size[1:], 3, shift, packed).repeat(size[0], 1, 1)
            assert torch.equal(mask.squeeze(1), expected)
        else:
            assert mask is None


def test_gradients_flow_back_through_windows() -> None:
    x = torch.randn(10 + 4, 2, dtype=torch.double, requires_grad=True)
    windows = packed_windows(((1, 2, 5), (1, 2, 2)), 3, 1, x)
    assert torch.autograd.gradcheck(windows.partition, (x,))
    rows = windows.partition(x).detach().requires_grad_()
    assert torch.autograd.gradcheck(windows.reverse, (rows,))


def test_cells_from_opposite_borders_do_not_attend() -> None:
    mask = shift_mask((6, 6), 3, 1, torch.zeros(()))
    assert mask.shape == (4, 9, 9)
    assert mask[0].abs().max() == 0
    last = mask[3].view(3, 3, 3, 3)
    assert last[0, 0, 0, 1] == 0
    assert last[0, 0, 2, 2] == BORDER
    assert last[2, 2, 2, 2] == 0


def test_relative_biases_follow_offsets() -> None:
    table = torch.arange(25.0).unsqueeze(1)
    bias = relative_bias(table, 3)[0, 0].view(3, 3, 3, 3)
    assert torch.equal(relative_positions(3, table.device).float(), bias.view(9, 9))
    for i, j, k, m in [(0, 0, 0, 0), (2, 1, 0, 2), (0, 2, 2, 0)]:
        assert bias[i, j, k, m] == (i - k + 2) * 5 + (j - m + 2)


def test_merging_has_timms_order_of_cells_and_pads_odd_maps() -> None:
    x = torch.arange(15.0).view(1, 3, 5, 1)
    merged = space_to_depth(x)
    assert merged.shape == (1, 2, 3, 4)
    assert merged[0, 0, 0].tolist() == [0, 5, 1, 6]
    assert merged[0, 1, 2].tolist() == [14, 0, 0, 0]


def test_blocks_keep_their_shifts_when_others_are_left_out() -> None:
    backbone = build("student.swin.max_depths=[2,2,18,2]", "student.swin.min_depth=6")
    shifts = backbone.plain_options(Subnet(8, 6))["shifts"]
    assert shifts == [[0, 1], [0, 1], [0, 1, 0, 0, 1, 1], [0, 1]]


def test_maps_smaller_than_a_window_are_still_shifted() -> None:
    backbone, images = build("student.swin.window_size=7"), torch.randn(2, 3, 16, 16)
    subnet = Subnet(8, 4)
    options = backbone.plain_options(subnet)
    unshifted = backbone.build_plain(
        {**options, "shifts": [[0] * len(shifts) for shifts in options["shifts"]]}
    )
    unshifted.load_state_dict(backbone.sliced_state_dict(subnet))
    expected = backbone(images, subnet)["x_norm_clstoken"]
    assert not torch.allclose(unshifted(images)["x_norm_clstoken"], expected, atol=1e-3)


@pytest.mark.parametrize("norm", ["active", "full"])
def test_the_patch_norm_is_over_the_channels_it_is_told_to(norm: str) -> None:
    backbone = build(f"student.swin.patch_norm={norm}")
    images, narrow = torch.randn(2, 3, 40, 48), Subnet(8, 2)
    plain = poa.extract(backbone, narrow)
    channels = plain.patch_embed.norm.weight.shape[0]
    assert channels == (16 if norm == "full" else 8)
    for size in (images, images[..., :36, :20]):
        actual = plain(size)["x_norm_clstoken"]
        torch.testing.assert_close(
            actual, backbone(size, narrow)["x_norm_clstoken"], atol=1e-5, rtol=0
        )
    with torch.no_grad():
        backbone.patch_embed.proj.weight[8:] += 1
    changed = not torch.allclose(
        backbone(images, narrow)["x_norm_clstoken"], plain(images)["x_norm_clstoken"]
    )
    assert changed == (norm == "full")


def test_a_full_patch_norm_is_refused_by_timm_but_not_at_full_width() -> None:
    backbone = build("student.swin.patch_norm=full")
    narrow = formats_of("swin").timm(backbone.plain_options(Subnet(8, 2)))
    assert "no Swin whose patch norm is over 16 channels of which 8 go on" in narrow.refusal
    assert not formats_of("swin").timm(backbone.plain_options(Subnet(16, 2))).refusal


def test_stochastic_depth_rises_and_drops_whole_images() -> None:
    config = default_config([*SWIN, "student.swin.drop_path_rate=0.7"])
    backbone = randomize(build_backbone(config)).train()
    assert backbone.drop_path_rates == pytest.approx([0.7 * i / 7 for i in range(8)])
    images, intact = torch.randn(6, 3, 64, 64), backbone.space.intact

    def run(seed: int, extra: int = 0) -> Tensor:
        torch.rand(extra)
        others = [CropBatch(images, Subnet(8, 2))] * extra
        crop_batch = CropBatch(images, intact, generator=torch.Generator().manual_seed(seed))
        return backbone([*others, crop_batch])[-1]["x_norm_clstoken"]

    assert torch.equal(run(1), run(1))
    torch.testing.assert_close(run(1), run(1, 2), atol=1e-6, rtol=0)
    undropped = backbone.eval()(images, intact)["x_norm_clstoken"]
    backbone.train()
    assert not torch.allclose(run(1), run(2))
    assert not torch.allclose(run(1), undropped)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.swin.max_depths=[2,2,6]"], "a list of 4 whole numbers"),
        (["student.swin.max_depths=[2,0,6,2]"], "4 whole numbers from 1"),
        (["student.swin.min_depth=5"], "depths 5..4"),
        (["student.swin.head_dim=5"], "head dimension 5 does not divide the width 8.*5 and 10"),
        (["student.swin.patch_norm=fulll"], "patch_norm' is 'fulll': did you mean 'full'"),
        (["student.swin.ibot_scale_factor=3"], "can be upsampled 1, 2, 4 or 8 times"),
        (["student.swin.mlp_ratio=0.2"], "no whole number"),
        (["student.swin.patch_size=5"], "do not divide into patches of 5"),
    ],
)
def test_contradicting_options_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(default_config([*SWIN, *overrides]))


def test_masks_need_whole_cells() -> None:
    with pytest.raises(UserError, match=r"multiple of 32 pixels, not 48.*32 and 64"):
        build().mask_grid(48)
    with pytest.raises(UserError, match="do not divide into patches of 4"):
        build().check_image_size(50)


def test_window_tables_are_computed_once() -> None:
    """For each layout, window, shift and type; a small number of them is kept."""
    tables = windows_module._cached_window_tables
    tables.cache_clear()
    layout, tokens = ((1, 4, 4),), torch.randn(16, 2)
    arguments = [
        (layout, 3, 1, tokens),
        (((2, 2, 4),), 3, 1, tokens),
        (layout, 2, 1, tokens),
        (layout, 3, 0, tokens),
        (layout, 3, 1, tokens.bfloat16()),
        (layout, 3, 1, tokens.to("meta")),
    ]
    first, again = ([packed_windows(*each) for each in arguments] for _ in range(2))
    assert tables.cache_info().misses == tables.cache_info().hits == len(arguments)
    for one, other, (*_, like) in zip(first, again, arguments, strict=True):
        assert one.index is other.index
        assert one.inverse_index is other.inverse_index
        assert one.index.rows.device == like.device
        assert all(mask is None or mask.dtype == like.dtype for mask in one.masks)
    for images in range(1, 100):
        packed_windows(((images, 4, 4),), 3, 1, tokens)
    assert tables.cache_info().currsize == tables.cache_info().maxsize < 100


def test_a_step_computes_window_tables_once() -> None:
    tables, backbone = windows_module._cached_window_tables, build().train()
    crop_batches = [
        CropBatch(torch.randn(2, 3, side, side), subnet)
        for subnet in (backbone.space.intact, Subnet(8, 2))
        for side in (64, 32)
    ]
    tables.cache_clear()
    backbone(crop_batches)
    misses = tables.cache_info().misses
    assert 0 < misses <= 8  # four stages, with and without a shift
    backbone(crop_batches)
    assert tables.cache_info().misses == misses


def test_window_tables_made_while_evaluating_serve_training() -> None:
    """Tensors that are made in inference mode cannot be saved for a backward pass."""
    windows_module._cached_window_tables.cache_clear()
    backbone = build()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        backbone(images)
    backbone(images)["x_norm_clstoken"].sum().backward()
    assert windows_module._cached_window_tables.cache_info().hits > 0


def test_window_tables_of_tracing_tensors_are_not_kept() -> None:
    class Fake(Tensor):
        pass

    windows_module._cached_window_tables.cache_clear()
    packed_windows(((1, 4, 4),), 3, 1, torch.randn(16, 2).as_subclass(Fake))
    assert windows_module._cached_window_tables.cache_info().currsize == 0
