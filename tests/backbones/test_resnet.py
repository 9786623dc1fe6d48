"""ResNet: the space of depth tuples, the inner width, alpha, and wrong options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import poa_plugin as poa
from poa_plugin.backbones import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.formats import formats_of
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES

RESNET = FAMILIES["resnet"]
NARROW = Subnet(8, depths=(1, 1, 3, 1))


def build(*overrides: str) -> ElasticBackbone:
    return randomize(build_backbone(default_config([*RESNET, *overrides]))).eval()


def test_networks_are_listed_by_total_depth_and_drawn_by_depth_alone() -> None:
    space = build().space
    depths = [subnet.depths for subnet in space if subnet.width == 8]
    assert depths == [
        (1, 1, 2, 1),
        (1, 1, 3, 1),
        (1, 2, 2, 1),
        (1, 1, 4, 1),
        (1, 2, 3, 1),
        (1, 2, 4, 1),
    ]
    assert space.multiplicities == (2, 2, 2, 1, 1, 1) * 3


def test_stage_outputs_have_the_same_width_in_all_networks() -> None:
    backbone, images = build(), torch.randn(2, 3, 64, 64)
    for subnet in (NARROW, backbone.space.intact):
        assert backbone(images, subnet)["x_norm_clstoken"].shape == (2, 256)
        assert backbone.feature_ratio(subnet) == 1
    plain = poa.extract(backbone, NARROW)
    assert plain.layer1[0].conv2.weight.shape == (8, 8, 3, 3)
    assert plain.layer1[0].conv3.weight.shape == (32, 8, 1, 1)


def test_alpha_is_there_although_the_norm_nearly_undoes_it() -> None:
    """Inner weights of a narrow network carry full / active; without it outputs differ by the norm's eps."""
    backbone, images = build(), torch.randn(2, 3, 64, 64)
    plain = poa.extract(backbone, NARROW)
    full = backbone.layer1[0]
    torch.testing.assert_close(plain.layer1[0].conv2.weight, 2 * full.conv2.weight[:8, :8])
    torch.testing.assert_close(plain.layer1[0].conv3.weight, 2 * full.conv3.weight[:, :8])
    torch.testing.assert_close(plain.layer1[0].conv1.weight, full.conv1.weight[:8])
    expected = backbone(images, NARROW)["x_norm_clstoken"]
    torch.testing.assert_close(plain(images)["x_norm_clstoken"], expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith(("conv2.weight", "conv3.weight")):
                parameter.mul_(0.5)
    assert (plain(images)["x_norm_clstoken"] - expected).abs().max() > 2e-5


@pytest.mark.parametrize("decayed", [False, True])
def test_the_shortcuts_norms_are_decayed_only_when_told(decayed: bool) -> None:
    backbone = build(f"student.resnet.decay_shortcut_norm={decayed}")
    settings = parameter_settings(nn.ModuleDict({"backbone": backbone}), 0.5, 1.0)
    assert settings["backbone.layer1.0.downsample.1.weight"][1] == float(decayed)
    assert settings["backbone.layer1.0.downsample.1.bias"][1] == 0
    assert settings["backbone.layer1.0.bn1.weight"][1] == 0
    assert settings["backbone.mask_token"][0] == 0.5**8
    assert settings["backbone.layer4.0.conv1.weight"][0] == 1


def test_timm_has_no_argument_for_another_stem_or_number_of_groups() -> None:
    backbone = build()
    refusal = formats_of("resnet").timm(backbone.plain_options(NARROW)).refusal
    assert "no argument for stem_width 8, groups 4" in refusal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["student.resnet.max_depths=[1,2,4]"],
            "max_depths' is .1,2,4.: it must be a list of 4 whole numbers",
        ),
        (
            ["student.resnet.min_depths=[1,3,2,1]"],
            "no stage may have more blocks than in max_depths",
        ),
        (["student.resnet.min_depths=[0,1,2,1]"], "4 whole numbers from 1"),
        (
            ["student.resnet.groups=3"],
            "groups is 3, which does not divide width 8: the nearest are 6 and 9",
        ),
        (["student.resnet.width_step=3"], "widths 8..16 in steps of 3"),
        (
            ["student.resnet.strides=[1,2]"],
            "strides' is .1,2.: it must be a list of 4 whole numbers",
        ),
    ],
)
def test_contradicting_options_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(default_config([*RESNET, *overrides]))
