"""Half precision outside training: elastic and extracted networks under autocast."""

from __future__ import annotations

import pytest
import torch

from poa_plugin.backbones import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import default_config
from poa_plugin.extraction.network import extract
from poa_plugin.testing import randomize
from tests.conftest import FAMILIES
from tests.precision import one_type_each, watch_residuals

KEYS = ("x_norm_clstoken", "x_norm_patchtokens", "x_prenorm")


@pytest.fixture(params=list(FAMILIES))
def backbone(request: pytest.FixtureRequest) -> ElasticBackbone:
    return randomize(build_backbone(default_config(FAMILIES[request.param]))).eval()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("policy", ["cpu", "cuda"])
def test_features_are_whole_and_those_of_the_extracted_network(
    backbone: ElasticBackbone, policy: str, kind: torch.dtype
) -> None:
    side, subnet = backbone.space.image_size, list(backbone.space)[4]
    plain = extract(backbone, subnet)
    seen = watch_residuals({name: plain.get_submodule(name) for name in plain.path()})
    images = torch.randn(2, 3, side, side)
    with torch.no_grad(), one_type_each(policy), torch.autocast("cpu", dtype=kind):
        elastic, extracted = backbone(images, subnet), plain(images)
        layers = [
            *backbone.get_intermediate_layers(images, 2, subnet),
            *plain.get_intermediate_layers(images, 2),
        ]
    assert seen
    assert {dtype for _, dtype in seen} == {torch.float32}
    assert {x.dtype for x in layers} == {torch.float32}
    with torch.no_grad():
        full_precision = plain(images)
    for key in KEYS:
        assert elastic[key].dtype == extracted[key].dtype == torch.float32
        scale = float(full_precision[key].abs().max())
        noise = 16 * torch.finfo(kind).eps * scale
        torch.testing.assert_close(elastic[key], extracted[key], atol=noise, rtol=0)
        torch.testing.assert_close(extracted[key], full_precision[key], atol=noise, rtol=0)


def test_images_of_half_precision_under_autocast(backbone: ElasticBackbone) -> None:
    side, subnet = backbone.space.image_size, backbone.space.intact
    images = torch.randn(2, 3, side, side)
    with torch.no_grad(), one_type_each("cuda"), torch.autocast("cpu", dtype=torch.bfloat16):
        for network in (backbone, extract(backbone, subnet)):
            actual, expected = network(images.bfloat16()), network(images.bfloat16().float())
            assert torch.equal(actual["x_norm_clstoken"], expected["x_norm_clstoken"])


def test_a_network_of_half_precision_stays_so(backbone: ElasticBackbone) -> None:
    side, subnet = backbone.space.image_size, list(backbone.space)[4]
    images = torch.randn(2, 3, side, side).bfloat16()
    with torch.no_grad(), one_type_each("cpu"):
        plain = extract(backbone, subnet).bfloat16()
        for out in (plain(images), backbone.bfloat16()(images, subnet)):
            assert {out[key].dtype for key in KEYS} == {torch.bfloat16}
