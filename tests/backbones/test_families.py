"""What holds for every family of backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from poa_plugin.backbones import CropBatch, ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.elastic.layers import MultiInputBlock
from poa_plugin.errors import UserError
from poa_plugin.extraction.network import extract
from poa_plugin.registry import BACKBONES
from tests.conftest import FAMILIES, randomize

OUTPUTS = ("x_norm_clstoken", "x_norm_patchtokens")


@pytest.fixture(params=list(FAMILIES))
def backbone(request: pytest.FixtureRequest) -> ElasticBackbone:
    return randomize(build_backbone(default_config(FAMILIES[request.param]))).eval()


def middle(backbone: ElasticBackbone) -> Subnet:
    """A member that is neither the widest nor the narrowest, neither the deepest nor the shallowest."""
    widths = backbone.space.widths
    of_width = [subnet for subnet in backbone.space if subnet.width == widths[len(widths) // 2]]
    return of_width[len(of_width) // 2]


def test_every_registered_family_is_tested() -> None:
    assert set(BACKBONES.names()) == set(FAMILIES)


def test_streams_walk_together_as_they_would_alone(backbone: ElasticBackbone) -> None:
    side = backbone.space.image_size
    large, small = torch.randn(3, 3, side, side), torch.randn(4, 3, 32, 32)
    rows, columns = backbone.mask_grid(side)
    masks = torch.rand(3, rows * columns) < 0.4
    narrow, smallest = middle(backbone), backbone.space["smallest"]
    crop_batches = [
        CropBatch(large, backbone.space.intact, masks),
        CropBatch(small, backbone.space.intact),
        CropBatch(large, narrow, masks),
        CropBatch(small, narrow),
        CropBatch(large, narrow),
        CropBatch(small, smallest),
    ]
    for crop_batch, out in zip(crop_batches, backbone(crop_batches), strict=True):
        alone = backbone(crop_batch.images, crop_batch.subnet, crop_batch.masks)
        for key in (*OUTPUTS, "x_prenorm"):
            torch.testing.assert_close(out[key], alone[key], atol=1e-5, rtol=1e-5)


def test_the_gradient_of_many_streams_is_the_sum_of_theirs(backbone: ElasticBackbone) -> None:
    side = backbone.space.image_size
    crops = [torch.randn(2, 3, side, side), torch.randn(3, 3, 32, 32)]
    crop_batches = [
        CropBatch(x, s) for s in (backbone.space.intact, middle(backbone)) for x in crops
    ]

    def gradients(groups: list[list[CropBatch]]) -> dict[str, torch.Tensor]:
        backbone.zero_grad()
        for group in groups:
            total = sum(out["x_norm_clstoken"].square().sum() for out in backbone(group))
            total.backward()
        return {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}

    together, alone = (
        gradients([crop_batches]),
        gradients([[crop_batch] for crop_batch in crop_batches]),
    )
    assert together.keys() == alone.keys()
    for name, grad in together.items():
        scale = float(alone[name].abs().max()) + 1
        torch.testing.assert_close(grad, alone[name], atol=2e-5 * scale, rtol=0, msg=name)


def test_a_narrow_networks_gradient_is_in_its_own_weights(backbone: ElasticBackbone) -> None:
    subnet, side = middle(backbone), backbone.space.image_size
    backbone(torch.randn(2, 3, side, side), subnet)["x_norm_clstoken"].square().sum().backward()
    path = set(backbone.member_path(subnet))
    skipped = set(backbone.member_path(backbone.space.intact)) - path
    assert skipped
    for name, module in backbone.named_modules():
        if name in skipped:
            assert all(p.grad is None for p in module.parameters()), name
    sliced = dict(backbone.sliced_state_dict(subnet))
    names = backbone.plain_names(subnet)
    for name, module in backbone.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            plain = f"{names[name]}.{key}".lstrip(".") if name in names else ""
            if parameter.grad is not None and plain in sliced:
                assert int((parameter.grad != 0).sum()) <= sliced[plain].numel(), name


def test_the_mask_token_is_seen_where_masks_are(backbone: ElasticBackbone) -> None:
    side, subnet = backbone.space.image_size, middle(backbone)
    images = torch.randn(2, 3, side, side)
    rows, columns = backbone.mask_grid(side)
    masks = torch.zeros(2, rows * columns, dtype=torch.bool)
    unmasked = backbone(images, subnet)
    nothing = backbone(images, subnet, masks)
    masks[1] = True
    masked = backbone(images, subnet, masks)
    for key in OUTPUTS:
        torch.testing.assert_close(nothing[key], unmasked[key])
        torch.testing.assert_close(masked[key][0], unmasked[key][0], atol=1e-5, rtol=1e-5)
    changed = backbone(torch.randn(2, 3, side, side), subnet, masks)
    torch.testing.assert_close(changed["x_norm_clstoken"][1], masked["x_norm_clstoken"][1])
    assert not torch.allclose(changed["x_norm_clstoken"][0], masked["x_norm_clstoken"][0])
    assert masked["x_norm_patchtokens"].shape[1] == rows * columns


@pytest.mark.parametrize("where", ["elastic", "plain"])
def test_intermediate_layers_end_in_the_output(backbone: ElasticBackbone, where: str) -> None:
    side, subnet = backbone.space.image_size, middle(backbone)
    images = torch.randn(2, 3, side, side)
    network, extra = backbone, {"subnet": subnet}
    if where == "plain":
        network, extra = extract(backbone, subnet), {}
    expected = backbone(images, subnet)
    [(maps, cls)] = network.get_intermediate_layers(
        images, 1, reshape=True, return_class_token=True, **extra
    )
    assert maps.dim() == 4
    torch.testing.assert_close(cls, expected["x_norm_clstoken"], atol=1e-5, rtol=1e-5)
    tokens = network.get_intermediate_layers(images, 1, **extra)[0]
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens)
    with pytest.raises(ValueError, match="has no"):
        network.get_intermediate_layers(images, [99], **extra)


def test_an_ordinary_network_can_be_walked_step_by_step(backbone: ElasticBackbone) -> None:
    """The network of a width's deepest member has the modules of all the members of that width."""
    subnet, side = middle(backbone), backbone.space.image_size
    members = [s for s in backbone.space if s.width == subnet.width]
    deepest = extract(backbone, max(members, key=lambda s: s.total_depth))
    images = torch.randn(2, 3, side, side)
    for member in members:
        x = deepest.stem(images)
        for name in backbone.member_path(member):
            x = deepest.step(x, name)
        actual = deepest.output(x)["x_norm_clstoken"]
        expected = backbone(images, member)["x_norm_clstoken"]
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert list(deepest.path()) == list(backbone.member_path(backbone.space.intact))


def test_every_block_takes_all_streams_in_one_call(backbone: ElasticBackbone) -> None:
    blocks = list(backbone.multi_input_blocks())
    assert len(blocks) == len(backbone.member_path(backbone.space.intact))
    assert all(isinstance(block, MultiInputBlock) for block in blocks)


def test_layer_ids_rise_along_the_path(backbone: ElasticBackbone) -> None:
    path = backbone.member_path(backbone.space.intact)
    ids = [backbone.layer_id(f"{name}.x.weight") for name in path]
    assert ids == sorted(ids)
    assert min(ids) == 1
    assert backbone.layer_id("mask_token") == 0
    assert max(ids) <= backbone.num_layers


def test_networks_outside_the_space_are_refused(backbone: ElasticBackbone) -> None:
    intact, side = backbone.space.intact, backbone.space.image_size
    images = torch.zeros(1, 3, side, side)
    strangers = [
        Subnet(intact.width + 4, intact.depth, intact.depths),
        Subnet(intact.width, intact.depth + 1, tuple(d + 1 for d in intact.depths)),
    ]
    for stranger in strangers:
        with pytest.raises(UserError, match=f"Unknown network '{stranger.name}'.*did you mean"):
            backbone(images, stranger)
        with pytest.raises(UserError, match="Unknown network"):
            extract(backbone, stranger)


def test_an_extracted_network_has_nothing_elastic_in_it(backbone: ElasticBackbone) -> None:
    plain = extract(backbone, middle(backbone))
    assert not any(hasattr(module, "sliced") for module in plain.modules())
    layers = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.GroupNorm)
    assert {type(m) for m in plain.modules() if isinstance(m, layers)} <= set(layers)


def test_the_residual_stream_keeps_the_parameters_precision(backbone: ElasticBackbone) -> None:
    side = backbone.space.image_size
    images, subnet = torch.randn(2, 3, side, side), middle(backbone)
    full_precision = backbone(images, subnet)["x_norm_clstoken"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = backbone(images, subnet)["x_norm_clstoken"]
    assert torch.nn.functional.cosine_similarity(full_precision, under.float()).min() > 0.99
